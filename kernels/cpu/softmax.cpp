// Softmax over the last dim, a row at a time.
#include "check.h"
#include "row.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 8192;

DT_INLINE int64_t rows_of_task(int64_t width) { return width >= block ? 1 : block / (width ? width : 1); }

/// e^(x - top) is kept in f32 until it is divided: of a narrower T it is computed twice instead.
template <class T>
void softmax(const Call& call) {
  const T* x = data_of<T>("softmax", "x", call.in(0));
  T* y = data_of<T>("softmax", "y", call.out(0));
  const int64_t width = call.in(0).last();
  each_block(call, call.in(0).rows(), rows_of_task(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x + row * width;
      T* out = y + row * width;
      const float top = max_over_row(in, width);
      const auto power = [=](int64_t j, int n) { return exp(load_first(in + j, n, splat(-INFINITY)) - top); };
      const double total = sum_over_row(width, [=](int64_t j, int n) {
        const vf e = power(j, n);
        if constexpr (!is_half<T>) store_part(out + j, e, n);
        return e;
      });
      const vf inverse = splat(static_cast<float>(1.0 / total));
      for (int64_t j = 0; j < width; j += VL) {
        const int n = lanes_left(width - j);
        if constexpr (is_half<T>) store_part(out + j, power(j, n) * inverse, n);
        else store_part(out + j, load_part(out + j, n) * inverse, n);
      }
    }
  });
}

template <class T>
void softmax_backward(const Call& call) {
  const T* dy = data_of<T>("softmax_backward", "dy", call.in(0));
  const T* y = data_of<T>("softmax_backward", "y", call.in(1));
  T* dx = data_of<T>("softmax_backward", "dx", call.out(0));
  const int64_t width = call.in(0).last();
  each_block(call, call.in(0).rows(), rows_of_task(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * width;
      const float dot = static_cast<float>(sum_over_row(
          width, [=](int64_t j, int n) { return load_part(dy + at + j, n) * load_part(y + at + j, n); }));
      for (int64_t j = 0; j < width; j += VL) {
        const int n = lanes_left(width - j);
        store_part(dx + at + j, load_part(y + at + j, n) * (load_part(dy + at + j, n) - dot), n);
      }
    }
  });
}

}  // namespace

void add_softmax(KernelTable& table) {
  add_kernel(table, abi::Opcode::softmax, [](const Call& call) {
    with_float("softmax", "x", call.in(0), [&]<class T>(TypeTag<T>) { softmax<T>(call); });
  });
  add_kernel(table, abi::Opcode::softmax_backward, [](const Call& call) {
    with_float("softmax_backward", "dy", call.in(0), [&]<class T>(TypeTag<T>) { softmax_backward<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
