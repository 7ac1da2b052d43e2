// Sums, products, conversions, copies and sums over leading dims: each reads and writes its operands once.
#include "check.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Elements of one task; smaller tensors stay on the caller's thread.
constexpr int64_t block = 32768;
/// Rows of one partial sum of sum_leading.
constexpr int64_t sum_rows = 256;
constexpr int64_t sum_columns = 1024;

/// y[i] = f(a[i], b[i mod period]), a and y of A.
template <class A, class B, class F>
DT_INLINE void binary(const Call& call, const char* op, F f) {
  const A* a = data_of<A>(op, "a", call.in(0));
  const B* b = data_of<B>(op, "b", call.in(1));
  A* y = data_of<A>(op, "y", call.out(0));
  const int64_t period = call.in(1).elements();
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    if (period == 1) {
      const vf value = splat(widen_one(b[0]));
      for (int64_t i = begin; i < end; i += VL) {
        const int n = lanes_left(end - i);
        store_part(y + i, f(load_part(a + i, n), value), n);
      }
      return;
    }
    for (int64_t i = begin; i < end;) {
      const B* row = b + i % period;
      const int64_t stop = end - i < b + period - row ? end : i + (b + period - row);
      for (; i < stop; i += VL, row += VL) {
        const int n = lanes_left(stop - i);
        store_part(y + i, f(load_part(a + i, n), load_part(row, n)), n);
      }
      i = stop;
    }
  });
}

template <class A, class B>
void add(const Call& call) {
  binary<A, B>(call, "add", [](vf a, vf b) { return a + b; });
}

template <class T>
void multiply(const Call& call) {
  binary<T, T>(call, "multiply", [](vf a, vf b) { return a * b; });
}

template <class T>
void scale(const Call& call) {
  const T* x = data_of<T>("scale", "x", call.in(0));
  T* y = data_of<T>("scale", "y", call.out(0));
  const vf factor = splat(static_cast<float>(call.attrs<abi::ScaleAttributes>().factor));
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
      const int n = lanes_left(end - i);
      store_part(y + i, load_part(x + i, n) * factor, n);
    }
  });
}

void copy(const Call& call) {
  const Tensor& x = call.in(0);
  const int64_t bytes = x.elements() * abi::dtype_bytes[static_cast<uint32_t>(x.dtype)];
  const char* from = x.as<const char>();
  char* to = call.out(0).as<char>();
  if (from == to) return;
  each_block(call, bytes, 4 * block, [=](int64_t begin, int64_t end) { std::memcpy(to + begin, from + begin, end - begin); });
}

/// Between f32 and 16-bit floats, or two of those, a vector at a time.
template <class From, class To>
void convert(const Call& call) {
  const From* x = call.in(0).as<From>();
  To* y = call.out(0).as<To>();
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
      const int n = lanes_left(end - i);
      store_part(y + i, load_part(x + i, n), n);
    }
  });
}

/// The float that keeps a second rounding, to 16 bits, from going wrong: rounded to odd (Boldo and Melquiond, 2008).
DT_INLINE float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (!std::isfinite(nearest) || static_cast<double>(nearest) == x) return std::isinf(nearest) && std::isfinite(x) ? std::copysign(3.4028235e38f, nearest) : nearest;
  uint32_t bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  if (bits & 1) return nearest;
  // The neighbour on the other side of x has an odd last bit.
  const bool outward = std::fabs(static_cast<double>(nearest)) < std::fabs(x);
  bits += outward ? 1 : -1;
  float odd;
  std::memcpy(&odd, &bits, sizeof odd);
  return std::copysign(odd, static_cast<float>(x));
}

template <class To>
void from_double(const Call& call) {
  const double* x = call.in(0).as<double>();
  To* y = call.out(0).as<To>();
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if constexpr (is_half<To>) store_one(y + i, round_to_odd(x[i]));
      else y[i] = static_cast<float>(x[i]);
    }
  });
}

template <class From>
void to_double(const Call& call) {
  const From* x = call.in(0).as<From>();
  double* y = call.out(0).as<double>();
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<double>(widen_one(x[i]));
  });
}

void cast(const Call& call) {
  const Tensor& x = call.in(0);
  const Tensor& y = call.out(0);
  if (x.dtype == y.dtype) return copy(call);
  if (x.dtype == DType::f64) return with_float("cast", "y", y, [&]<class To>(TypeTag<To>) { from_double<To>(call); });
  with_float("cast", "x", x, [&]<class From>(TypeTag<From>) {
    if (y.dtype == DType::f64) return to_double<From>(call);
    with_float("cast", "y", y, [&]<class To>(TypeTag<To>) { convert<From, To>(call); });
  });
}

/// out = the sum of `rows` rows of x, `stride` apart, one after the other.
template <class T>
DT_INLINE void sum_of_rows(const T* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t j = 0; j < columns; j += VL) store_part(out + j, load_part(x + j, lanes_left(columns - j)), lanes_left(columns - j));
  int64_t row = 1;
  for (; row + 4 <= rows; row += 4) {
    const T* p = x + row * stride;
    for (int64_t j = 0; j < columns; j += VL) {
      const int n = lanes_left(columns - j);
      const vf two = load_part(out + j, n) + load_part(p + j, n) + load_part(p + stride + j, n);
      store_part(out + j, two + load_part(p + 2 * stride + j, n) + load_part(p + 3 * stride + j, n), n);
    }
  }
  for (; row < rows; ++row) {
    const T* p = x + row * stride;
    for (int64_t j = 0; j < columns; j += VL) {
      const int n = lanes_left(columns - j);
      store_part(out + j, load_part(out + j, n) + load_part(p + j, n), n);
    }
  }
}

/// Rows of T to a sum of O, in f32 between.
template <class T, class O>
void sum_leading(const Call& call) {
  const T* x = data_of<T>("sum_leading", "x", call.in(0));
  O* sum = data_of<O>("sum_leading", "sum", call.out(0));
  const int64_t width = call.out(0).elements();
  if (width == 0) return;
  const int64_t rows = call.in(0).elements() / width;
  if (rows == 0) {
    std::memset(sum, 0, sizeof(O) * width);
    return;
  }
  const int64_t chunks = (rows + sum_rows - 1) / sum_rows;
  const int64_t stripes = (width + sum_columns - 1) / sum_columns;
  float* const partial = reinterpret_cast<float*>(call.workspace);
  const auto columns_of = [=](int64_t stripe) { return stripe + 1 < stripes ? sum_columns : width - stripe * sum_columns; };
  const int64_t grain = rows * width <= block ? chunks * stripes : 1;
  each_block(call, chunks * stripes, grain, [=](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / stripes, stripe = task % stripes, at = stripe * sum_columns;
      const int64_t count = chunk + 1 < chunks ? sum_rows : rows - chunk * sum_rows;
      sum_of_rows(x + chunk * sum_rows * width + at, width, count, columns_of(stripe), partial + chunk * width + at);
    }
  });
  each_block(call, width, chunks * width <= block ? width : sum_columns, [=](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += VL) {
      const int n = lanes_left(end - j);
      vf total = load_part(partial + j, n);
      for (int64_t chunk = 1; chunk < chunks; ++chunk) total += load_part(partial + chunk * width + j, n);
      store_part(sum + j, total, n);
    }
  });
}

}  // namespace

void add_elementwise(KernelTable& table) {
  add_kernel(table, abi::Opcode::add, [](const Call& call) {
    with_float("add", "b", call.in(1), [&]<class B>(TypeTag<B>) {
      if (call.in(0).dtype == dtype_of<B>) add<B, B>(call);
      else add<float, B>(call);
    });
  });
  add_kernel(table, abi::Opcode::multiply, [](const Call& call) {
    with_float("multiply", "a", call.in(0), [&]<class T>(TypeTag<T>) { multiply<T>(call); });
  });
  add_kernel(table, abi::Opcode::scale, [](const Call& call) {
    with_float("scale", "x", call.in(0), [&]<class T>(TypeTag<T>) { scale<T>(call); });
  });
  add_kernel(table, abi::Opcode::cast, cast);
  add_kernel(table, abi::Opcode::copy, copy);
  add_kernel(table, abi::Opcode::sum_leading, [](const Call& call) {
    with_float("sum_leading", "x", call.in(0), [&]<class T>(TypeTag<T>) {
      with_gradient<T>("sum_leading", "sum", &call.out(0), [&]<class O>(TypeTag<O>) { sum_leading<T, O>(call); });
    });
  });
}

}  // namespace deeptroupe::DT_ISA
