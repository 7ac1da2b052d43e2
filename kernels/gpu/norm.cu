// Layer normalisation and its gradients: memory is read once and written once.
#include "columns.h"
#include "row.h"

namespace deeptroupe::gpu {

namespace {

template <class T>
struct Forward {
  const T* x;
  const T* weight;
  const T* bias;
  T* y;
  float* means;
  float* rstds;
  int64_t rows;
  int width;
  float epsilon;
};

/// Mean and variance in two passes over the row, which stays in registers.
template <class T, int threads, int packs>
__global__ __launch_bounds__(row_threads) void layer_norm_kernel(const Forward<T> o) {
  const int64_t index = own_row<threads>();
  if (index >= o.rows) return;
  const Row<T, threads, packs> row(o.x + index * o.width, o.width);
  constexpr int N = Row<T, threads, packs>::N;
  const float width = static_cast<float>(o.width);
  float total = 0.0f, squares = 0.0f;
  row.each([&](int, int, const float(&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) total += v[n];
  });
  const float mean = row_sum<threads>(total) / width;
  row.each([&](int, int, const float(&v)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n) squares = fmaf(v[n] - mean, v[n] - mean, squares);
  });
  const float rstd = 1.0f / sqrtf(row_sum<threads>(squares) / width + o.epsilon);
  row.write(o.y + index * o.width, [&](int, int column, float(&v)[N]) {
    float w[N], b[N];
    if (o.weight) load_floats(o.weight + column, w);
    if (o.bias) load_floats(o.bias + column, b);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      v[n] = (v[n] - mean) * rstd;
      if (o.weight) v[n] *= w[n];
      if (o.bias) v[n] += b[n];
    }
  });
  if (threadIdx.x % threads != 0) return;
  if (o.means) o.means[index] = mean;
  if (o.rstds) o.rstds[index] = rstd;
}

template <class T>
void layer_norm(const Call& call) {
  constexpr const char* op = "layer_norm";
  const Tensor& x = call.in(0);
  if (x.last() > INT32_MAX - 65536) fail(op, "width", "at most 2147418111", std::to_string(x.last()));
  const Forward<T> o{data_of<T>(op, "x", x),
                     data_of<T>(op, "weight", call.inputs[1]),
                     data_of<T>(op, "bias", call.inputs[2]),
                     data_of<T>(op, "y", call.out(0)),
                     data_of(op, "mean", call.outputs[1]),
                     data_of(op, "rstd", call.outputs[2]),
                     x.rows(),
                     static_cast<int>(x.last()),
                     static_cast<float>(call.attrs<abi::LayerNormAttributes>().epsilon)};
  if (o.rows == 0 || o.width == 0) return;
  with_row_shape<T>(o.width, aligned(16, o.x, o.weight, o.bias, o.y), [&]<int threads, int packs>(RowShape<threads, packs>) {
    launch(layer_norm_kernel<T, threads, packs>, grid_of(op, row_blocks<threads>(o.rows)), row_threads, 0, call.stream, o);
  });
}

/// Rows whose parameter gradients are added up before the chunks are: those of one block.
constexpr int chunk_rows = 64;
/// Most packs of a thread in the backward pass, as registers allow.
template <class T>
constexpr int most_packs = sizeof(T) == 4 ? 4 : 2;
/// Most threads of its blocks: with one pack a thread two of them run side by side.
template <int packs>
constexpr int backward_threads = packs == 1 ? 448 : 512;

template <class T>
struct Backward {
  const T* dy;
  const T* x;
  const T* weight;
  const float* means;
  const float* rstds;
  const T* residual;
  T* dx;
  /// Per chunk of rows the sums for the weight, those for the bias and, with three of them, those of dx; null: not wanted.
  float* partial;
  int sums;
  int64_t rows;
  int width;
};

/// What a thread has of one row of a chunk.
template <class T, int packs>
struct Part {
  static constexpr int N = per_pack<T>;
  Pack<T, N> dy[packs], x[packs];
  float mean, rstd;
};

/// Waits for the other threads of a group alone.
__device__ inline void join_group(int group, int threads) {
#if defined(__HIP__)
  (void)group, (void)threads;
  __syncthreads();
#else
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(threads) : "memory");
#endif
}

/// A block takes a chunk of rows, its groups (threadIdx.y) rows group, group + groups and so on; a thread holds `packs` packs of a row
/// and their sums over rows. While a row is reduced the next is on its way, where there are registers for it.
template <class T, int packs>
__global__ __launch_bounds__(backward_threads<packs>, packs == 1 ? 2 : 1) void backward_kernel(const Backward<T> o) {
  constexpr int N = per_pack<T>;
  extern __shared__ __align__(16) float shared[];
  __shared__ float2 reduced[2][backward_threads<packs> / warp];
  const int thread = threadIdx.x, group = threadIdx.y, groups = blockDim.y, warps = blockDim.x / warp;
  const int64_t first = int64_t{blockIdx.x} * chunk_rows;
  const int count = static_cast<int>(o.rows - first < chunk_rows ? o.rows - first : chunk_rows);
  const int steps = (count + groups - 1) / groups;
  const float share = 1.0f / static_cast<float>(o.width);
  const auto column_of = [&](int p) { return (p * static_cast<int>(blockDim.x) + thread) * N; };
  const auto read = [&](Part<T, packs>& part, int row) {
    const bool there = row < count;
    part.mean = there ? o.means[first + row] : 0.0f;
    part.rstd = there ? o.rstds[first + row] : 0.0f;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      part.dy[p] = part.x[p] = Pack<T, N>{};
      if (!there || column_of(p) >= o.width) continue;
      const int64_t at = (first + row) * o.width + column_of(p);
      part.dy[p] = load_pack<N>(o.dy + at);
      part.x[p] = load_pack<N>(o.x + at);
    }
  };

  Pack<T, N> weight[packs];
#pragma unroll
  for (int p = 0; p < packs; ++p) {
#pragma unroll
    for (int n = 0; n < N; ++n) weight[p].at[n] = from_float<T>(1.0f);
    if (o.weight && column_of(p) < o.width) weight[p] = load_pack<N>(o.weight + column_of(p));
  }
  float dw[packs][N] = {}, db[packs][N] = {}, ds[packs][N] = {};
  constexpr bool ahead = packs <= 2;
  Part<T, packs> next;
  if (ahead) read(next, group);
  for (int step = 0; step < steps; ++step) {
    const int row = step * groups + group;
    Part<T, packs> part;
    if (ahead) part = next;
    else read(part, row);
    if (ahead && step + 1 < steps) read(next, row + groups);
    Pack<T, N> residual[packs] = {};
    const int64_t at_row = (first + row) * o.width;
    if (o.residual && row < count) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (column_of(p) < o.width) residual[p] = load_pack<N>(o.residual + at_row + column_of(p));
    }
    float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      float g[N], h[N], w[N];
      widen(part.dy[p], g);
      widen(part.x[p], h);
      widen(weight[p], w);
      if (column_of(p) >= o.width) continue;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        h[n] = (h[n] - part.mean) * part.rstd;
        db[p][n] += g[n];
        dw[p][n] = fmaf(g[n], h[n], dw[p][n]);
        g[n] *= w[n];
        sum_g += g[n];
        sum_gx = fmaf(g[n], h[n], sum_gx);
      }
    }
    if (!o.dx) continue;
    sum_g = warp_sum(sum_g);
    sum_gx = warp_sum(sum_gx);
    // Two buffers in turn: whoever writes one again has passed the barrier that all readers of it came before.
    float2* const sums = reduced[step % 2] + group * warps;
    if (thread % warp == 0) sums[thread / warp] = make_float2(sum_g, sum_gx);
    join_group(group, blockDim.x);
    sum_g = sums[0].x, sum_gx = sums[0].y;
    for (int w = 1; w < warps; ++w) {
      sum_g += sums[w].x;
      sum_gx += sums[w].y;
    }
    if (row >= count) continue;
    const float mean_g = sum_g * share, mean_gx = sum_gx * share;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      if (column_of(p) >= o.width) continue;
      float g[N], h[N], w[N], r[N];
      widen(part.dy[p], g);
      widen(part.x[p], h);
      widen(weight[p], w);
      widen(residual[p], r);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        h[n] = (h[n] - part.mean) * part.rstd;
        g[n] *= w[n];
        g[n] = (g[n] - fmaf(h[n], mean_gx, mean_g)) * part.rstd;
        if (o.residual) g[n] += r[n];
      }
      const Pack<T, N> stored = narrow<T>(g);
      store_pack(o.dx + at_row + column_of(p), stored);
      if (o.sums < 3) continue;
      widen(stored, g);
#pragma unroll
      for (int n = 0; n < N; ++n) ds[p][n] += g[n];
    }
  }
  if (!o.partial) return;
  const int64_t sums_width = int64_t{o.sums} * o.width;

  // The groups' sums are added in order.
  if (group > 0) {
    float* const to = shared + (group - 1) * sums_width;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      if (column_of(p) >= o.width) continue;
      store_floats(to + column_of(p), dw[p]);
      store_floats(to + o.width + column_of(p), db[p]);
      if (o.sums == 3) store_floats(to + 2 * o.width + column_of(p), ds[p]);
    }
  }
  __syncthreads();
  if (group > 0) return;
  float* const to = o.partial + blockIdx.x * sums_width;
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    if (column_of(p) >= o.width) continue;
    for (int other = 1; other < groups; ++other) {
      const float* const from = shared + (other - 1) * sums_width + column_of(p);
      float more_dw[N], more_db[N], more_ds[N] = {};
      load_floats(from, more_dw);
      load_floats(from + o.width, more_db);
      if (o.sums == 3) load_floats(from + 2 * o.width, more_ds);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        dw[p][n] += more_dw[n];
        db[p][n] += more_db[n];
        ds[p][n] += more_ds[n];
      }
    }
    store_floats(to + column_of(p), dw[p]);
    store_floats(to + o.width + column_of(p), db[p]);
    if (o.sums == 3) store_floats(to + 2 * o.width + column_of(p), ds[p]);
  }
}

/// Parameter gradients of rows of any length and alignment: a thread adds one column of a chunk.
template <class T>
__global__ __launch_bounds__(row_threads) void parameters_kernel(const Backward<T> o, const int64_t tiles) {
  const int64_t chunk = blockIdx.x / tiles, column = blockIdx.x % tiles * row_threads + threadIdx.x;
  if (column >= o.width) return;
  const int64_t first = chunk * chunk_rows, end = first + chunk_rows < o.rows ? first + chunk_rows : o.rows;
  float dw = 0.0f, db = 0.0f;
  for (int64_t row = first; row < end; ++row) {
    const float g = to_float(o.dy[row * o.width + column]);
    dw = fmaf(g, (to_float(o.x[row * o.width + column]) - o.means[row]) * o.rstds[row], dw);
    db += g;
  }
  float* const to = o.partial + chunk * o.sums * o.width + column;
  to[0] = dw;
  to[o.width] = db;
}

/// The sums of dx for them.
template <class T>
__global__ __launch_bounds__(row_threads) void sums_kernel(const Backward<T> o, const int64_t tiles) {
  const int64_t chunk = blockIdx.x / tiles, column = blockIdx.x % tiles * row_threads + threadIdx.x;
  if (column >= o.width) return;
  const int64_t first = chunk * chunk_rows, end = first + chunk_rows < o.rows ? first + chunk_rows : o.rows;
  float sum = 0.0f;
  for (int64_t row = first; row < end; ++row) sum += to_float(o.dx[row * o.width + column]);
  o.partial[(chunk * o.sums + 2) * o.width + column] = sum;
}

/// dx of rows of any length and alignment: a block streams one.
template <class T>
__global__ __launch_bounds__(row_threads) void input_kernel(const Backward<T> o) {
  const int64_t index = blockIdx.x, at = index * o.width;
  const float mean = o.means[index], rstd = o.rstds[index];
  const Row<T, row_threads, 0> dy(o.dy + at, o.width);
  const auto normal_of = [&](int column) { return (to_float(o.x[at + column]) - mean) * rstd; };
  const auto weighted = [&](float g, int column) { return o.weight ? g * to_float(o.weight[column]) : g; };
  float sum_g = 0.0f, sum_gx = 0.0f;
  dy.each([&](int, int column, const float(&v)[1]) {
    const float g = weighted(v[0], column);
    sum_g += g;
    sum_gx = fmaf(g, normal_of(column), sum_gx);
  });
  const float share = 1.0f / static_cast<float>(o.width);
  const float mean_g = row_sum<row_threads>(sum_g) * share, mean_gx = row_sum<row_threads>(sum_gx) * share;
  dy.write(o.dx + at, [&](int, int column, float(&v)[1]) {
    v[0] = (weighted(v[0], column) - fmaf(normal_of(column), mean_gx, mean_g)) * rstd;
    if (o.residual) v[0] += to_float(o.residual[at + column]);
  });
}

/// Whole packs of 16 bytes, some of them per thread of a group.
template <class T>
void backward_packed(const char* op, const Call& call, const Backward<T>& o, int64_t chunks) {
  const auto with_packs = [&]<int packs>(std::integral_constant<int, packs>) {
    const int64_t threads = blocks_of(blocks_of(o.width / per_pack<T>, packs), warp) * warp;
    int groups = 1;
    while (groups < 8 && (groups + 1) * threads <= backward_threads<packs>) ++groups;
    const size_t shared = o.partial ? (groups - 1) * o.sums * sizeof(float) * static_cast<size_t>(o.width) : 0;
    launch(backward_kernel<T, packs>, grid_of(op, chunks), dim3(static_cast<unsigned>(threads), groups), shared, call.stream, o);
  };
  if (o.width <= backward_threads<1> * per_pack<T>) with_packs(std::integral_constant<int, 1>{});
  else if (o.width <= 2 * backward_threads<2> * per_pack<T>) with_packs(std::integral_constant<int, 2>{});
  else with_packs(std::integral_constant<int, most_packs<T>>{});
}

/// Operands of T, parameter gradients of O.
template <class T, class O>
void layer_norm_backward(const Call& call) {
  constexpr const char* op = "layer_norm_backward";
  O* dweight = data_of<O>(op, "dweight", call.outputs[1]);
  O* dbias = data_of<O>(op, "dbias", call.outputs[2]);
  O* sum = data_of<O>(op, "sum", call.outputs[3]);
  const Tensor& dy = call.in(0);
  if (dy.last() > INT32_MAX - 65536) fail(op, "width", "at most 2147418111", std::to_string(dy.last()));
  const Backward<T> o{data_of<T>(op, "dy", dy),
                      data_of<T>(op, "x", call.in(1)),
                      data_of<T>(op, "weight", call.inputs[2]),
                      data_of(op, "mean", call.in(3)),
                      data_of(op, "rstd", call.in(4)),
                      data_of<T>(op, "residual", call.inputs[5]),
                      data_of<T>(op, "dx", call.outputs[0]),
                      dweight || dbias || sum ? reinterpret_cast<float*>(call.workspace) : nullptr,
                      sum ? 3 : 2,
                      dy.rows(),
                      static_cast<int>(dy.last())};
  if (o.width == 0) return;
  if (sum && !o.dx) fail(op, "dx", "an output where its sum is one", "nothing");
  const int64_t chunks = blocks_of(o.rows, chunk_rows);
  if (o.partial) need_workspace(op, call, sizeof(float) * chunks * o.sums * o.width);
  const bool packed = o.width % per_pack<T> == 0 && o.width <= most_packs<T> * backward_threads<most_packs<T>> * per_pack<T> &&
                      aligned(16, o.dy, o.x, o.weight, o.residual, o.dx);
  if (chunks > 0 && packed) {
    backward_packed(op, call, o, chunks);
  } else if (chunks > 0) {
    // dx may lie on dy, so it comes last.
    const int64_t tiles = blocks_of(o.width, row_threads);
    if (o.partial) launch(parameters_kernel<T>, grid_of(op, chunks * tiles), row_threads, 0, call.stream, o, tiles);
    if (o.dx) launch(input_kernel<T>, grid_of(op, o.rows), row_threads, 0, call.stream, o);
    if (sum) launch(sums_kernel<T>, grid_of(op, chunks * tiles), row_threads, 0, call.stream, o, tiles);
  }
  if (o.partial) total<O>(op, call, o.partial, chunks, {o.width, o.sums, {dweight, dbias, sum}});
}

}  // namespace

void add_norm(KernelTable& table) {
  table.add(abi::Opcode::layer_norm, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { layer_norm<T>(call); });
  });
  table.add(abi::Opcode::layer_norm_backward, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) {
      const Tensor* gradient = call.has_out(1) ? call.outputs[1] : call.has_out(2) ? call.outputs[2] : call.outputs[3];
      with_gradient<T>("layer_norm_backward", "dweight", gradient, [&]<class O>(O) { layer_norm_backward<T, O>(call); });
    });
  });
}

}  // namespace deeptroupe::gpu
