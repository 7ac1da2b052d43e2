// Softmax over the last dim, a row at a time.
#include "check.h"
#include "row.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 8192;

DT_INLINE int64_t rows_of_task(int64_t width) { return width >= block ? 1 : block / (width ? width : 1); }

void softmax(const Call& call) {
  const float* x = data_of("softmax", "x", call.in(0));
  float* y = data_of("softmax", "y", call.out(0));
  const int64_t width = call.in(0).last();
  each_block(call, call.in(0).rows(), rows_of_task(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* in = x + row * width;
      float* out = y + row * width;
      const float top = max_over_row(in, width);
      const double total = sum_over_row(width, [=](int64_t j, int n) {
        const vf e = exp(load_first(in + j, n, splat(-INFINITY)) - top);
        store_part(out + j, e, n);
        return e;
      });
      const vf inverse = splat(static_cast<float>(1.0 / total));
      for (int64_t j = 0; j < width; j += VL) {
        const int n = lanes_left(width - j);
        store_part(out + j, load_part(out + j, n) * inverse, n);
      }
    }
  });
}

void softmax_backward(const Call& call) {
  const float* dy = data_of("softmax_backward", "dy", call.in(0));
  const float* y = data_of("softmax_backward", "y", call.in(1));
  float* dx = data_of("softmax_backward", "dx", call.out(0));
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
  add_kernel(table, abi::Opcode::softmax, softmax);
  add_kernel(table, abi::Opcode::softmax_backward, softmax_backward);
}

}  // namespace deeptroupe::DT_ISA
