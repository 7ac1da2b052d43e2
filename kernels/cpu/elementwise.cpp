// Sums, products, conversions, copies and sums over leading dims: each reads and writes its operands once.
#include "check.h"
#include "convert.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Elements of one task; smaller tensors stay on the caller's thread.
constexpr int64_t block = 32768;
/// Rows of one partial sum of sum_leading.
constexpr int64_t sum_rows = 256;
constexpr int64_t sum_columns = 1024;

/// y[i] = f(a[i], b[i mod period]).
template <class F>
DT_INLINE void binary(const Call& call, const char* op, F f) {
  const float* a = data_of(op, "a", call.in(0));
  const float* b = data_of(op, "b", call.in(1));
  float* y = data_of(op, "y", call.out(0));
  const int64_t period = call.in(1).elements();
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    if (period == 1) {
      const vf value = splat(b[0]);
      for (int64_t i = begin; i < end; i += VL) {
        const int n = lanes_left(end - i);
        store_part(y + i, f(load_part(a + i, n), value), n);
      }
      return;
    }
    for (int64_t i = begin; i < end;) {
      const float* row = b + i % period;
      const int64_t stop = end - i < b + period - row ? end : i + (b + period - row);
      for (; i < stop; i += VL, row += VL) {
        const int n = lanes_left(stop - i);
        store_part(y + i, f(load_part(a + i, n), load_part(row, n)), n);
      }
      i = stop;
    }
  });
}

void add(const Call& call) {
  binary(call, "add", [](vf a, vf b) { return a + b; });
}

void multiply(const Call& call) {
  binary(call, "multiply", [](vf a, vf b) { return a * b; });
}

void scale(const Call& call) {
  const float* x = data_of("scale", "x", call.in(0));
  float* y = data_of("scale", "y", call.out(0));
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

/// f32 to a 16-bit type, a vector at a time.
template <vh (*convert)(vf)>
void narrow(const Call& call, const float* x, uint16_t* y) {
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
      const int n = lanes_left(end - i);
      store_half(y + i, convert(load_part(x + i, n)), n);
    }
  });
}

template <vf (*convert)(vh)>
void widen(const Call& call, const uint16_t* x, float* y) {
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
      const int n = lanes_left(end - i);
      store_part(y + i, convert(load_half(x + i, n)), n);
    }
  });
}

template <class From, class To>
void convert_each(const Call& call, const From* x, To* y) {
  each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = static_cast<To>(x[i]);
  });
}

void cast(const Call& call) {
  const Tensor& x = call.in(0);
  const Tensor& y = call.out(0);
  if (x.dtype == y.dtype) return copy(call);
  if (x.dtype == DType::f32) {
    switch (y.dtype) {
      case DType::f64: return convert_each(call, x.as<float>(), y.as<double>());
      case DType::bf16: return narrow<to_bf16>(call, x.as<float>(), y.as<uint16_t>());
      case DType::f16: return narrow<to_f16>(call, x.as<float>(), y.as<uint16_t>());
      default: break;
    }
  } else if (y.dtype == DType::f32) {
    switch (x.dtype) {
      case DType::f64: return convert_each(call, x.as<double>(), y.as<float>());
      case DType::bf16: return widen<from_bf16>(call, x.as<uint16_t>(), y.as<float>());
      case DType::f16: return widen<from_f16>(call, x.as<uint16_t>(), y.as<float>());
      default: break;
    }
  }
  fail("cast: dtypes, expected f32 to or from f64, bf16 or f16, got %s to %s", dtype_name(x.dtype), dtype_name(y.dtype));
}

/// out = the sum of `rows` rows of x, `stride` apart, one after the other.
DT_INLINE void sum_of_rows(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t j = 0; j < columns; j += VL) store_part(out + j, load_part(x + j, lanes_left(columns - j)), lanes_left(columns - j));
  int64_t row = 1;
  for (; row + 4 <= rows; row += 4) {
    const float* p = x + row * stride;
    for (int64_t j = 0; j < columns; j += VL) {
      const int n = lanes_left(columns - j);
      const vf two = load_part(out + j, n) + load_part(p + j, n) + load_part(p + stride + j, n);
      store_part(out + j, two + load_part(p + 2 * stride + j, n) + load_part(p + 3 * stride + j, n), n);
    }
  }
  for (; row < rows; ++row) {
    const float* p = x + row * stride;
    for (int64_t j = 0; j < columns; j += VL) {
      const int n = lanes_left(columns - j);
      store_part(out + j, load_part(out + j, n) + load_part(p + j, n), n);
    }
  }
}

void sum_leading(const Call& call) {
  const float* x = data_of("sum_leading", "x", call.in(0));
  float* sum = data_of("sum_leading", "sum", call.out(0));
  const int64_t width = call.out(0).elements();
  if (width == 0) return;
  const int64_t rows = call.in(0).elements() / width;
  if (rows == 0) {
    std::memset(sum, 0, sizeof(float) * width);
    return;
  }
  const int64_t chunks = (rows + sum_rows - 1) / sum_rows;
  const int64_t stripes = (width + sum_columns - 1) / sum_columns;
  float* partial = chunks == 1 ? sum : reinterpret_cast<float*>(call.workspace);
  const auto columns_of = [=](int64_t stripe) { return stripe + 1 < stripes ? sum_columns : width - stripe * sum_columns; };
  const int64_t grain = rows * width <= block ? chunks * stripes : 1;
  each_block(call, chunks * stripes, grain, [=](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / stripes, stripe = task % stripes, at = stripe * sum_columns;
      const int64_t count = chunk + 1 < chunks ? sum_rows : rows - chunk * sum_rows;
      sum_of_rows(x + chunk * sum_rows * width + at, width, count, columns_of(stripe), partial + chunk * width + at);
    }
  });
  if (chunks == 1) return;
  each_block(call, stripes, chunks * width <= block ? stripes : 1, [=](int64_t begin, int64_t end) {
    for (int64_t stripe = begin; stripe < end; ++stripe) {
      const int64_t at = stripe * sum_columns;
      sum_of_rows(partial + at, width, chunks, columns_of(stripe), sum + at);
    }
  });
}

}  // namespace

void add_elementwise(KernelTable& table) {
  add_kernel(table, abi::Opcode::add, add);
  add_kernel(table, abi::Opcode::multiply, multiply);
  add_kernel(table, abi::Opcode::scale, scale);
  add_kernel(table, abi::Opcode::cast, cast);
  add_kernel(table, abi::Opcode::copy, copy);
  add_kernel(table, abi::Opcode::sum_leading, sum_leading);
}

}  // namespace deeptroupe::DT_ISA
