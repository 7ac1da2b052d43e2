// Layer normalisation and its gradients: memory is read once and written once.
#include <algorithm>

#include "ahead.h"
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
__global__ __launch_bounds__(block_threads<threads>) void layer_norm_kernel(const Forward<T> o) {
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
      if (o.weight && o.bias) v[n] = fmaf(v[n], w[n], b[n]);
      else if (o.weight) v[n] *= w[n];
      else if (o.bias) v[n] += b[n];
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
    launch(layer_norm_kernel<T, threads, packs>, grid_of(op, row_blocks<threads>(o.rows)), block_threads<threads>, 0, call.stream, o);
  });
}

/// Rows whose parameter gradients are added up before the chunks are: those of one block. Of many rows there are about 256 chunks, which
/// a device takes at once (`layer_norm_backward` of workspace.ts).
int64_t chunk_rows_of(int64_t rows) { return std::max<int64_t>(16, blocks_of(blocks_of(rows, 256), 8) * 8); }

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
  int64_t rows, chunk_rows;
  int width;
};

/// Rows of a group that have been asked for: one is worked on, the others are on their way.
template <int packs>
constexpr int backward_stages = packs == 1 ? 4 : packs <= 3 ? 3 : 2;
/// Warps of a block, of which two have the registers of a multiprocessor; a row that needs more has a block, and a multiprocessor, to itself.
template <int packs>
constexpr int backward_warps = packs <= 2 ? 8 : 6;
/// Most packs of a thread, as registers allow, and most warps of a row.
constexpr int most_packs = 4, most_row_warps = 2 * backward_warps<most_packs>;
/// What is asked for of a row: dy, x, residual.
constexpr int backward_operands = 3;
/// Bytes of what `warps` warps have asked for, and of the weights, of which the warps of a row have a part each.
template <int packs>
constexpr size_t backward_bytes(int64_t warps, int64_t row_warps) {
  return size_t{16} * warp * packs * (backward_stages<packs> * backward_operands * warps + row_warps);
}

/// Waits for the other threads of a group alone.
__device__ inline void join_group(int group, int threads) {
#if defined(__HIP__)
  (void)group, (void)threads;
  __syncthreads();
#else
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(threads) : "memory");
#endif
}

/// A block takes a chunk of rows, its groups (threadIdx.y) rows group, group + groups and so on; a thread holds the sums over rows of
/// `packs` packs. A group is a warp, and waits for nobody, or where rows are wider several.
/// With h = (x - mean) rstd, g = dy weight and means over a row: dx = rstd (g - mean(g) - h mean(g h)), taken apart into multiples of g, x, 1.
template <class T, int packs, bool alone>
__global__ __launch_bounds__((alone ? backward_warps<packs> : most_row_warps) * warp, alone ? 2 : 1) void backward_kernel(const Backward<T> o) {
  constexpr int N = per_pack<T>, stages = backward_stages<packs>, row_places = backward_operands * packs;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float2 reduced[2][most_row_warps];
  const int thread = threadIdx.x, group = threadIdx.y, groups = blockDim.y, row_warps = blockDim.x / warp;
  const int64_t first = int64_t{blockIdx.x} * o.chunk_rows;
  const int count = static_cast<int>(o.rows - first < o.chunk_rows ? o.rows - first : o.chunk_rows);
  const int steps = (count + groups - 1) / groups;
  const float share = 1.0f / static_cast<float>(o.width);
  // A warp's packs lie together; some of its lanes, or it, may have none.
  const int begin = (thread / warp * packs * warp + thread % warp) * N;
  const auto there = [&](int p) { return (alone && p < packs - 1) || begin + p * warp * N < o.width; };

  // Where the row has no pack, and where there is no residual, are zeros: there is nothing to add, and nothing is stored.
  const Places<T, N> places(shared, group * blockDim.x + thread, stages * row_places);
  const Places<T, N> weights(shared + size_t{16} * stages * row_places * groups * blockDim.x, thread, packs);
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    for (int stage = 0; stage < stages; ++stage)
      for (int operand = 0; operand < backward_operands; ++operand)
        if (!there(p) || (operand == 2 && !o.residual)) places.put(stage * row_places + operand * packs + p, Pack<T, N>{});
    if (group > 0) continue;
    Pack<T, N> weight;
#pragma unroll
    for (int n = 0; n < N; ++n) weight.at[n] = from_float<T>(1.0f);
    weights.put(p, o.weight && there(p) ? load_pack<N>(o.weight + begin + p * warp * N) : weight);
  }
  // This thread's first pack of the group's row: elements from the tensors' beginning.
  int row = group;
  int64_t at = (first + row) * o.width + begin;
  const int64_t apart = int64_t{groups} * o.width;
  const auto ask_row = [&](int ahead, int stage) {
    const auto ask = [&](int operand, const T* from) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (there(p)) places.ask(stage * row_places + operand * packs + p, from + at + ahead * apart + p * warp * N);
    };
    if (row + ahead * groups < count) {
      ask(0, o.dy);
      ask(1, o.x);
      if (o.residual) ask(2, o.residual);
    }
    end_asking();
  };

  float dw[packs][N] = {}, db[packs][N] = {}, ds[packs][N] = {};
  for (int stage = 0; stage < stages - 1; ++stage) ask_row(stage, stage);
  const float *const means = o.means + first, *const rstds = o.rstds + first;
  float next_mean = 0.0f, next_rstd = 0.0f;
  if (group < count) next_mean = means[group], next_rstd = rstds[group];
  __syncthreads();
  int stage = 0;
  for (int step = 0; step < steps; ++step, row += groups, at += apart) {
    ask_row(stages - 1, stage == 0 ? stages - 1 : stage - 1);
    const float rstd = next_rstd, shift = -next_mean * rstd;
    if (row + groups < count) next_mean = means[row + groups], next_rstd = rstds[row + groups];
    wait_asked<stages - 1>();
    const int from = stage * row_places;
    stage = stage + 1 == stages ? 0 : stage + 1;
    float sum_g = 0.0f, sum_gh = 0.0f;
    if (row < count) {
#pragma unroll
      for (int p = 0; p < packs; ++p) {
        if (!alone && begin + (p * warp - thread % warp) * N >= o.width) break;
        float dy[N], x[N], w[N];
        widen(places.get(from + p), dy);
        widen(places.get(from + packs + p), x);
        widen(weights.get(p), w);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const float h = fmaf(x[n], rstd, shift), g = dy[n] * w[n];
          db[p][n] += dy[n];
          dw[p][n] = fmaf(dy[n], h, dw[p][n]);
          sum_g += g;
          sum_gh = fmaf(g, h, sum_gh);
        }
      }
    }
    if (!o.dx) continue;
    sum_g = warp_sum(sum_g);
    sum_gh = warp_sum(sum_gh);
    if constexpr (!alone) {
      // Two buffers in turn: whoever writes one again has passed the barrier that all readers of it came before.
      float2* const sums = reduced[step % 2] + group * row_warps;
      if (thread % warp == 0) sums[thread / warp] = make_float2(sum_g, sum_gh);
      join_group(group, blockDim.x);
      sum_g = sums[0].x, sum_gh = sums[0].y;
      for (int w = 1; w < row_warps; ++w) {
        sum_g += sums[w].x;
        sum_gh += sums[w].y;
      }
    }
    if (row >= count) continue;
    const float factor = -rstd * (sum_gh * share);
    const float slope = factor * rstd, offset = fmaf(factor, shift, -rstd * (sum_g * share));
    T* const dx = o.dx + at;
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      if (!alone && begin + (p * warp - thread % warp) * N >= o.width) break;
      float dy[N], x[N], w[N], value[N];
      widen(places.get(from + p), dy);
      widen(places.get(from + packs + p), x);
      widen(weights.get(p), w);
      widen(places.get(from + 2 * packs + p), value);
#pragma unroll
      for (int n = 0; n < N; ++n) value[n] += fmaf(dy[n] * w[n], rstd, fmaf(x[n], slope, offset));
      const Pack<T, N> stored = narrow<T>(value);
      if (there(p)) store_pack(dx + p * warp * N, stored);
      widen(stored, value);
#pragma unroll
      for (int n = 0; n < N; ++n) ds[p][n] += value[n];
    }
  }
  if (!o.partial) return;

  // The groups' sums are added in order. They take the place of the rows, which need at least as much.
  float* const sums = reinterpret_cast<float*>(shared);
  const int sums_width = o.sums * o.width;
  __syncthreads();
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    if (!there(p)) continue;
    float* const to = sums + group * sums_width + begin + p * warp * N;
    store_floats(to, dw[p]);
    store_floats(to + o.width, db[p]);
    if (o.sums == 3) store_floats(to + 2 * o.width, ds[p]);
  }
  __syncthreads();
  float* const to = o.partial + int64_t{blockIdx.x} * sums_width;
  for (int column = 4 * (group * blockDim.x + thread); column < sums_width; column += 4 * groups * blockDim.x) {
    float total[4];
    load_floats(sums + column, total);
    for (int other = 1; other < groups; ++other) {
      float more[4];
      load_floats(sums + other * sums_width + column, more);
#pragma unroll
      for (int n = 0; n < 4; ++n) total[n] += more[n];
    }
    store_floats(to + column, total);
  }
}

/// Parameter gradients of rows of any length and alignment: a thread adds one column of a chunk.
template <class T>
__global__ __launch_bounds__(row_threads) void parameters_kernel(const Backward<T> o, const int64_t tiles) {
  const int64_t chunk = blockIdx.x / tiles, column = blockIdx.x % tiles * row_threads + threadIdx.x;
  if (column >= o.width) return;
  const int64_t first = chunk * o.chunk_rows, end = first + o.chunk_rows < o.rows ? first + o.chunk_rows : o.rows;
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
  const int64_t first = chunk * o.chunk_rows, end = first + o.chunk_rows < o.rows ? first + o.chunk_rows : o.rows;
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

/// Rows of whole packs of 16 bytes; false: they, or what is asked for ahead, are too long.
template <class T>
bool backward_packed(const char* op, const Call& call, const Backward<T>& o, int64_t chunks) {
  if (o.width % per_pack<T> != 0 || !aligned(16, o.dy, o.x, o.weight, o.residual, o.dx)) return false;
  const auto with = [&]<int packs, bool alone>(std::integral_constant<int, packs>, std::bool_constant<alone>) {
    constexpr auto kernel = backward_kernel<T, packs, alone>;
    const int64_t row_warps = blocks_of(o.width / per_pack<T>, packs * warp);
    if (row_warps > most_row_warps) return false;
    const int64_t groups = std::max<int64_t>(1, backward_warps<packs> / row_warps);
    const size_t shared = backward_bytes<packs>(groups * row_warps, row_warps), most = call.device->shared_bytes - 1024;
    if (shared > most) return false;
    allow_shared_once<kernel>(std::min(most, alone ? backward_bytes<packs>(backward_warps<packs>, 1) : backward_bytes<packs>(most_row_warps, most_row_warps)));
    launch(kernel, grid_of(op, chunks), dim3(static_cast<unsigned>(row_warps * warp), static_cast<unsigned>(groups)), shared, call.stream, o);
    return true;
  };
  switch (blocks_of(o.width / per_pack<T>, warp)) {
    case 1: return with(std::integral_constant<int, 1>{}, std::true_type{});
    case 2: return with(std::integral_constant<int, 2>{}, std::true_type{});
    case 3: return with(std::integral_constant<int, 3>{}, std::true_type{});
    case 4: return with(std::integral_constant<int, 4>{}, std::true_type{});
    default: return with(std::integral_constant<int, most_packs>{}, std::false_type{});
  }
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
                      chunk_rows_of(dy.rows()),
                      static_cast<int>(dy.last())};
  if (o.width == 0) return;
  if (sum && !o.dx) fail(op, "dx", "an output where its sum is one", "nothing");
  const int64_t chunks = blocks_of(o.rows, o.chunk_rows);
  if (o.partial) need_workspace(op, call, sizeof(float) * chunks * o.sums * o.width);
  if (chunks > 0 && !backward_packed(op, call, o, chunks)) {
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
