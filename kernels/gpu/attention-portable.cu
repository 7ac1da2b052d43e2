// Attention for every dtype, head size and chip: tiles of 64 x 64 scores in f32, operands staged through shared memory 32 numbers of a
// row at a time, no tensor cores. A block computes up to 128 columns of its result; larger heads take several blocks, each of which
// computes the scores anew. Backward has one pass for the gradients of keys and values and one for those of queries.
#include "attention.h"

namespace deeptroupe::gpu {

namespace {

constexpr int TILE = 64, STEP = 32, COLUMNS = 128, THREADS = 256;
/// A thread's part of a tile: rows ty + 16 i and columns tx + 16 j.
constexpr int SIDE = 16, PART = TILE / SIDE, PARTS = COLUMNS / SIDE;
constexpr int STEP_STRIDE = STEP + 1, TILE_STRIDE = TILE + 1;
constexpr size_t SHARED_BYTES = sizeof(float) * (2 * TILE * STEP_STRIDE + TILE * TILE_STRIDE);

/// Rows of one head in device memory: `valid` of them from `data`, `stride` numbers apart.
template <class T>
struct Rows {
  const T* data;
  int stride, valid;
};

struct Tiles {
  float *left, *right, *scores;
  int tx, ty;
  __device__ Tiles() {
    left = reinterpret_cast<float*>(attention_shared), right = left + TILE * STEP_STRIDE, scores = right + TILE * STEP_STRIDE;
    tx = static_cast<int>(threadIdx.x) % SIDE, ty = static_cast<int>(threadIdx.x) / SIDE;
  }
};

/// Up to 32 numbers from `column` on of 64 rows, zeros outside.
template <class T>
__device__ void stage(float* to, const Rows<T>& from, int column, int size) {
#pragma unroll 4
  for (int i = threadIdx.x; i < TILE * STEP; i += THREADS) {
    const int row = i / STEP, d = i % STEP;
    const bool inside = row < from.valid && column + d < size;
    to[row * STEP_STRIDE + d] = inside ? to_float(from.data[static_cast<int64_t>(row) * from.stride + column + d]) : 0.0f;
  }
}

/// to = left * right^T over whole rows.
template <class T>
__device__ void multiply_rows(const Tiles& tiles, float (&to)[PART][PART], const Rows<T>& left, const Rows<T>& right, int size) {
#pragma unroll
  for (int i = 0; i < PART; ++i)
#pragma unroll
    for (int j = 0; j < PART; ++j) to[i][j] = 0;
  for (int column = 0; column < size; column += STEP) {
    __syncthreads();
    stage(tiles.left, left, column, size);
    stage(tiles.right, right, column, size);
    __syncthreads();
#pragma unroll 8
    for (int d = 0; d < STEP; ++d) {
      float a[PART], b[PART];
#pragma unroll
      for (int i = 0; i < PART; ++i) {
        a[i] = tiles.left[(tiles.ty + SIDE * i) * STEP_STRIDE + d], b[i] = tiles.right[(tiles.tx + SIDE * i) * STEP_STRIDE + d];
      }
#pragma unroll
      for (int i = 0; i < PART; ++i)
#pragma unroll
        for (int j = 0; j < PART; ++j) to[i][j] = fmaf(a[i], b[j], to[i][j]);
    }
  }
}

/// to += scores * right, of whose columns those from `column` on.
template <class T>
__device__ void multiply_scores(const Tiles& tiles, float (&to)[PART][PARTS], const Rows<T>& right, int column, int size) {
#pragma unroll
  for (int c = 0; c < COLUMNS / STEP; ++c) {
    if (column + c * STEP >= size) break;
    __syncthreads();
    stage(tiles.right, right, column + c * STEP, size);
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < TILE; ++k) {
      const float low = tiles.right[k * STEP_STRIDE + tiles.tx], high = tiles.right[k * STEP_STRIDE + SIDE + tiles.tx];
#pragma unroll
      for (int i = 0; i < PART; ++i) {
        const float a = tiles.scores[(tiles.ty + SIDE * i) * TILE_STRIDE + k];
        to[i][2 * c] = fmaf(a, low, to[i][2 * c]), to[i][2 * c + 1] = fmaf(a, high, to[i][2 * c + 1]);
      }
    }
  }
}

template <class T>
__device__ void store(const Tiles& tiles, T* to, int stride, int valid, const float (&from)[PART][PARTS], int column, int size,
                      const float (&factors)[PART]) {
#pragma unroll
  for (int i = 0; i < PART; ++i) {
    const int row = tiles.ty + SIDE * i;
    if (row >= valid) continue;
#pragma unroll
    for (int j = 0; j < PARTS; ++j) {
      const int d = column + tiles.tx + SIDE * j;
      if (d < size) to[static_cast<int64_t>(row) * stride + d] = from_float<T>(from[i][j] * factors[i]);
    }
  }
}

template <class T>
__device__ Rows<T> rows_from(const T* data, int stride, int row, int sequence) {
  return {data + static_cast<int64_t>(row) * stride, stride, sequence - row};
}

/// Of the 16 threads of a row the sum or the highest, in each of them.
template <class F>
__device__ float across_row(float value, F f) {
#pragma unroll
  for (int mask = SIDE / 2; mask > 0; mask /= 2) value = f(value, shuffle_xor(value, mask));
  return value;
}

__device__ bool sees(const Plan& plan, int query, int key) {
  return query < plan.sequence && key < plan.sequence && (!plan.causal || key <= query);
}

template <class T>
__global__ void __launch_bounds__(THREADS) forward(const Plan plan, const Order order, const T* qkv, T* o, float* lse) {
  int pair, rank;
  order.at(blockIdx.x, pair, rank);
  const Tiles tiles;
  const Mask mask(plan, pair);
  const int first_query = (order.blocks - 1 - rank) * TILE, column = blockIdx.y * COLUMNS;
  const int sequence = plan.sequence, size = plan.size, width = plan.width(), hidden = plan.hidden();
  const T* const q = qkv + plan.qkv_offset(pair);
  const Rows<T> queries = rows_from(q, width, first_query, sequence);
  float sums[PART][PARTS] = {}, top[PART], total[PART] = {};
#pragma unroll
  for (int i = 0; i < PART; ++i) top[i] = -INFINITY;
  const int visible = plan.causal && first_query + TILE < sequence ? first_query + TILE : sequence;

  for (int key = 0; key < visible; key += TILE) {
    float scores[PART][PART];
    multiply_rows(tiles, scores, queries, rows_from(q + hidden, width, key, sequence), size);
#pragma unroll
    for (int i = 0; i < PART; ++i) {
      const int query = first_query + tiles.ty + SIDE * i;
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < PART; ++j) {
        scores[i][j] = sees(plan, query, key + tiles.tx + SIDE * j) ? scores[i][j] * plan.scale : -INFINITY;
        most = fmaxf(most, scores[i][j]);
      }
      most = across_row(most, [](float a, float b) { return fmaxf(a, b); });
      const float higher = fmaxf(top[i], most);
      // Rows past the sequence see nothing: their top stays at minus infinity.
      const float shrink = higher == -INFINITY ? 1.0f : expf(top[i] - higher);
      top[i] = higher, total[i] *= shrink;
#pragma unroll
      for (int j = 0; j < PARTS; ++j) sums[i][j] *= shrink;
#pragma unroll
      for (int j = 0; j < PART; ++j) {
        const int at = tiles.tx + SIDE * j;
        float p = scores[i][j] == -INFINITY ? 0.0f : expf(scores[i][j] - higher);
        total[i] += p;
        if (plan.dropout.active && p != 0 && !mask.kept(query, key + at)) p = 0;
        tiles.scores[(tiles.ty + SIDE * i) * TILE_STRIDE + at] = p;
      }
    }
    multiply_scores(tiles, sums, rows_from(q + 2 * hidden, width, key, sequence), column, size);
  }

  float factors[PART];
#pragma unroll
  for (int i = 0; i < PART; ++i) {
    const float all = across_row(total[i], [](float a, float b) { return a + b; });
    const int query = first_query + tiles.ty + SIDE * i;
    factors[i] = (plan.dropout.active ? plan.dropout.factor : 1.0f) / all;
    if (lse && blockIdx.y == 0 && tiles.tx == 0 && query < sequence) {
      lse[static_cast<int64_t>(pair) * sequence + query] = top[i] + logf(all);
    }
  }
  store(tiles, o + plan.o_offset(pair) + static_cast<int64_t>(first_query) * hidden, hidden, sequence - first_query, sums, column, size,
        factors);
}

/// delta_BHT: of each row the sum of do * o.
template <class T>
__global__ void __launch_bounds__(THREADS) row_deltas(const Plan plan, const T* d_o, const T* o, float* delta) {
  const int lane = static_cast<int>(threadIdx.x) % warp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (THREADS / warp) + threadIdx.x / warp;
  if (row >= static_cast<int64_t>(plan.pairs()) * plan.sequence) return;
  const int head = static_cast<int>(row % plan.heads);
  const int64_t position = row / plan.heads, batch = position / plan.sequence, t = position % plan.sequence;
  float sum = 0;
  for (int d = lane; d < plan.size; d += warp) sum = fmaf(to_float(d_o[row * plan.size + d]), to_float(o[row * plan.size + d]), sum);
  sum = warp_sum(sum);
  if (lane == 0) delta[(batch * plan.heads + head) * plan.sequence + t] = sum;
}

/// With P the probabilities and F dropout's factors: P F and P (F dP - delta) from a score, dP, log-sum-exp and delta.
struct Differential {
  float dropped, ds;
  __device__ Differential(const Plan& plan, const Mask& mask, int query, int key, float score, float dp, const float* lse, const float* delta) {
    if (!sees(plan, query, key)) {
      dropped = ds = 0;
      return;
    }
    const float p = expf(fmaf(score, plan.scale, -lse[query]));
    const float factor = !plan.dropout.active ? 1.0f : mask.kept(query, key) ? plan.dropout.factor : 0.0f;
    dropped = p * factor, ds = p * (dp * factor - delta[query]);
  }
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    backward_keys(const Plan plan, const Order order, const T* d_o, const T* qkv, const float* lse, const float* delta, T* dqkv) {
  int pair, rank;
  order.at(blockIdx.x, pair, rank);
  const Tiles tiles;
  const Mask mask(plan, pair);
  const int first_key = rank * TILE, column = blockIdx.y * COLUMNS;
  const int sequence = plan.sequence, size = plan.size, width = plan.width(), hidden = plan.hidden();
  const T* const q = qkv + plan.qkv_offset(pair);
  const T* const d_out = d_o + plan.o_offset(pair);
  lse += static_cast<int64_t>(pair) * sequence, delta += static_cast<int64_t>(pair) * sequence;
  const Rows<T> keys = rows_from(q + hidden, width, first_key, sequence), values = rows_from(q + 2 * hidden, width, first_key, sequence);
  float dk[PART][PARTS] = {}, dv[PART][PARTS] = {};

  for (int query = plan.causal ? first_key : 0; query < sequence; query += TILE) {
    const Rows<T> queries = rows_from(q, width, query, sequence), d_rows = rows_from(d_out, hidden, query, sequence);
    float scores[PART][PART], dp[PART][PART];
    multiply_rows(tiles, scores, keys, queries, size);
    multiply_rows(tiles, dp, values, d_rows, size);
#pragma unroll
    for (int i = 0; i < PART; ++i) {
#pragma unroll
      for (int j = 0; j < PART; ++j) {
        const int row = tiles.ty + SIDE * i, at = tiles.tx + SIDE * j;
        const Differential d(plan, mask, query + at, first_key + row, scores[i][j], dp[i][j], lse, delta);
        tiles.scores[row * TILE_STRIDE + at] = d.dropped;
        dp[i][j] = d.ds;
      }
    }
    multiply_scores(tiles, dv, d_rows, column, size);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < PART; ++i)
#pragma unroll
      for (int j = 0; j < PART; ++j) tiles.scores[(tiles.ty + SIDE * i) * TILE_STRIDE + tiles.tx + SIDE * j] = dp[i][j];
    multiply_scores(tiles, dk, queries, column, size);
  }

  T* const to = dqkv + plan.qkv_offset(pair) + static_cast<int64_t>(first_key) * width;
  store(tiles, to + hidden, width, sequence - first_key, dk, column, size, {plan.scale, plan.scale, plan.scale, plan.scale});
  store(tiles, to + 2 * hidden, width, sequence - first_key, dv, column, size, {1, 1, 1, 1});
}

template <class T>
__global__ void __launch_bounds__(THREADS)
    backward_queries(const Plan plan, const Order order, const T* d_o, const T* qkv, const float* lse, const float* delta, T* dqkv) {
  int pair, rank;
  order.at(blockIdx.x, pair, rank);
  const Tiles tiles;
  const Mask mask(plan, pair);
  const int first_query = (order.blocks - 1 - rank) * TILE, column = blockIdx.y * COLUMNS;
  const int sequence = plan.sequence, size = plan.size, width = plan.width(), hidden = plan.hidden();
  const T* const q = qkv + plan.qkv_offset(pair);
  lse += static_cast<int64_t>(pair) * sequence, delta += static_cast<int64_t>(pair) * sequence;
  const Rows<T> queries = rows_from(q, width, first_query, sequence);
  const Rows<T> d_rows = rows_from(d_o + plan.o_offset(pair), hidden, first_query, sequence);
  const int visible = plan.causal && first_query + TILE < sequence ? first_query + TILE : sequence;
  float dq[PART][PARTS] = {};

  for (int key = 0; key < visible; key += TILE) {
    const Rows<T> keys = rows_from(q + hidden, width, key, sequence);
    float scores[PART][PART], dp[PART][PART];
    multiply_rows(tiles, scores, queries, keys, size);
    multiply_rows(tiles, dp, d_rows, rows_from(q + 2 * hidden, width, key, sequence), size);
#pragma unroll
    for (int i = 0; i < PART; ++i) {
#pragma unroll
      for (int j = 0; j < PART; ++j) {
        const int row = tiles.ty + SIDE * i, at = tiles.tx + SIDE * j;
        tiles.scores[row * TILE_STRIDE + at] =
            Differential(plan, mask, first_query + row, key + at, scores[i][j], dp[i][j], lse, delta).ds;
      }
    }
    multiply_scores(tiles, dq, keys, column, size);
  }
  store(tiles, dqkv + plan.qkv_offset(pair) + static_cast<int64_t>(first_query) * width, width, sequence - first_query, dq, column, size,
        {plan.scale, plan.scale, plan.scale, plan.scale});
}

dim3 grid_of(const Order& order, const Plan& plan) { return dim3(order.count(), divide_up(plan.size, COLUMNS)); }

}  // namespace

void forward_portable(const Call& call, const Plan& plan) {
  with_float(call.in(0).dtype, [&]<class T>(T) {
    const Order order(call, plan.pairs(), divide_up(plan.sequence, TILE), int64_t{2} * plan.sequence * plan.size * sizeof(T));
    launch(forward<T>, grid_of(order, plan), dim3(THREADS), SHARED_BYTES, call.stream, plan, order, call.in(0).as<const T>(),
           call.out(0).as<T>(), call.has_out(1) ? call.out(1).as<float>() : nullptr);
  });
}

void backward_portable(const Call& call, const Plan& plan) {
  with_float(call.in(1).dtype, [&]<class T>(T) {
    const T* const d_o = call.in(0).as<const T>();
    const T* const qkv = call.in(1).as<const T>();
    const float* const lse = call.in(3).as<const float>();
    float* const delta = reinterpret_cast<float*>(call.workspace);
    const int64_t rows = static_cast<int64_t>(plan.pairs()) * plan.sequence, per_block = THREADS / warp;
    launch(row_deltas<T>, dim3(static_cast<unsigned>((rows + per_block - 1) / per_block)), dim3(THREADS), 0, call.stream, plan, d_o,
           call.in(2).as<const T>(), delta);
    const Order order(call, plan.pairs(), divide_up(plan.sequence, TILE), int64_t{4} * plan.sequence * plan.size * sizeof(T));
    launch(backward_keys<T>, grid_of(order, plan), dim3(THREADS), SHARED_BYTES, call.stream, plan, order, d_o, qkv, lse, delta,
           call.out(0).as<T>());
    launch(backward_queries<T>, grid_of(order, plan), dim3(THREADS), SHARED_BYTES, call.stream, plan, order, d_o, qkv, lse, delta,
           call.out(0).as<T>());
  });
}

}  // namespace deeptroupe::gpu
