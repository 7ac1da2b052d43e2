// Softmax over the last dim and its gradient, a row at a time.
#include "row.h"

namespace deeptroupe::gpu {

namespace {

template <class T, int threads, int packs>
__global__ __launch_bounds__(block_threads<threads>) void softmax_kernel(const T* x, T* y, const int64_t rows, const int width) {
  const int64_t index = own_row<threads>();
  if (index >= rows) return;
  const Row<T, threads, packs> row(x + index * width, width);
  constexpr int N = Row<T, threads, packs>::N;
  float top = -INFINITY;
  row.each([&](int, int, const float(&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) top = v[n] > top ? v[n] : top;
  });
  top = row_max<threads>(top);
  float total = 0.0f;
  row.each([&](int, int, const float(&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) total += expf(v[n] - top);
  });
  const float inverse = 1.0f / row_sum<threads>(total);
  row.write(y + index * width, [&](int, int, float(&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = expf(v[n] - top) * inverse;
  });
}

template <class T, int threads, int packs>
__global__ __launch_bounds__(block_threads<threads>) void softmax_backward_kernel(const T* dy, const T* y, T* dx, const int64_t rows, const int width) {
  const int64_t index = own_row<threads>();
  if (index >= rows) return;
  const Row<T, threads, packs> g(dy + index * width, width), p(y + index * width, width);
  constexpr int N = Row<T, threads, packs>::N;
  float dot = 0.0f;
  g.each([&](int pack, int column, const float(&v)[N]) {
    float w[N];
    p.get(pack, column, w);
#pragma unroll
    for (int n = 0; n < N; ++n) dot = fmaf(v[n], w[n], dot);
  });
  dot = row_sum<threads>(dot);
  g.write(dx + index * width, [&](int pack, int column, float(&v)[N]) {
    float w[N];
    p.get(pack, column, w);
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = w[n] * (v[n] - dot);
  });
}

int width_of(const char* op, const Tensor& x) {
  if (x.last() > INT32_MAX - 65536) fail(op, "width", "at most 2147418111", std::to_string(x.last()));
  return static_cast<int>(x.last());
}

template <class T>
void softmax(const Call& call) {
  const T* x = data_of<T>("softmax", "x", call.in(0));
  T* y = data_of<T>("softmax", "y", call.out(0));
  const int64_t rows = call.in(0).rows();
  const int width = width_of("softmax", call.in(0));
  if (rows == 0 || width == 0) return;
  with_row_shape<T>(width, aligned(16, x, y), [&]<int threads, int packs>(RowShape<threads, packs>) {
    launch(softmax_kernel<T, threads, packs>, grid_of("softmax", row_blocks<threads>(rows)), block_threads<threads>, 0, call.stream, x, y, rows, width);
  });
}

template <class T>
void softmax_backward(const Call& call) {
  constexpr const char* op = "softmax_backward";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* y = data_of<T>(op, "y", call.in(1));
  T* dx = data_of<T>(op, "dx", call.out(0));
  const int64_t rows = call.in(0).rows();
  const int width = width_of(op, call.in(0));
  if (rows == 0 || width == 0) return;
  with_row_shape<T>(width, aligned(16, dy, y, dx), [&]<int threads, int packs>(RowShape<threads, packs>) {
    launch(softmax_backward_kernel<T, threads, packs>, grid_of(op, row_blocks<threads>(rows)), block_threads<threads>, 0, call.stream, dy, y, dx, rows,
           width);
  });
}

}  // namespace

void add_softmax(KernelTable& table) {
  table.add(abi::Opcode::softmax, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { softmax<T>(call); });
  });
  table.add(abi::Opcode::softmax_backward, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { softmax_backward<T>(call); });
  });
}

}  // namespace deeptroupe::gpu
