// Rows in registers: threads that share a row read it once, in packs of 16 bytes, and reduce over it by shuffles. A row that is too long
// for them, or not aligned, is streamed: read again in each pass, element by element.
#pragma once

#include "operands.h"
#include "pack.h"

namespace deeptroupe::gpu {

inline constexpr int row_threads = 256;

/// `threads` (a warp, or a block of row_threads) share a row; each holds `packs` packs of it, or with 0 none.
template <int threads, int packs>
struct RowShape {
  /// Packs that every thread has: rows that are so short that one more is in doubt have another shape.
  static constexpr int sure = threads == warp ? packs - 1 : packs / 2;
};

/// Calls f(RowShape) for rows of `width` elements of T.
template <class T, class F>
void with_row_shape(int64_t width, bool packed, F&& f) {
  const int64_t packs = width / per_pack<T>;
  if (!packed || width % per_pack<T> != 0 || packs > 8 * row_threads) return f(RowShape<row_threads, 0>{});
  switch (blocks_of(packs, warp)) {
    case 1: return f(RowShape<warp, 1>{});
    case 2: return f(RowShape<warp, 2>{});
    case 3: return f(RowShape<warp, 3>{});
    case 4: return f(RowShape<warp, 4>{});
    case 5: return f(RowShape<warp, 5>{});
    case 6: return f(RowShape<warp, 6>{});
    case 7: return f(RowShape<warp, 7>{});
    case 8: return f(RowShape<warp, 8>{});
  }
  if (packs <= 2 * row_threads) return f(RowShape<row_threads, 2>{});
  if (packs <= 4 * row_threads) return f(RowShape<row_threads, 4>{});
  return f(RowShape<row_threads, 8>{});
}

/// Threads of a block: with few rows each its place is soon another's.
template <int threads>
inline constexpr int block_threads = threads == warp ? 128 : row_threads;

/// The row that this thread helps with.
template <int threads>
__device__ inline int64_t own_row() {
  return int64_t{blockIdx.x} * (block_threads<threads> / threads) + threadIdx.x / threads;
}
template <int threads>
inline int64_t row_blocks(int64_t rows) {
  return blocks_of(rows, block_threads<threads> / threads);
}

template <class T, int threads, int packs>
struct Row {
  static constexpr int N = packs ? per_pack<T> : 1, sure = RowShape<threads, packs>::sure;
  const T* from;
  int width;
  Pack<T, N> held[packs ? packs : 1];

  __device__ Row(const T* row, int row_width) : from(row), width(row_width) {
    if constexpr (packs > 0) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (p < sure || column_of(p) < width) held[p] = load_pack<N>(from + column_of(p));
    }
  }

  __device__ static int column_of(int p) { return (p * threads + static_cast<int>(threadIdx.x % threads)) * N; }

  /// The elements that `each` calls f with for p and column.
  __device__ void get(int p, int column, float (&values)[N]) const {
    if constexpr (packs > 0) widen(held[p], values);
    else values[0] = to_float(from[column]);
  }

  /// f(p, column, values) for this thread's elements, N from `column` on at a time.
  template <class F>
  __device__ void each(F f) const {
    float values[N];
    if constexpr (packs > 0) {
#pragma unroll
      for (int p = 0; p < packs; ++p) {
        if (p >= sure && column_of(p) >= width) continue;
        get(p, column_of(p), values);
        f(p, column_of(p), values);
      }
    } else {
      for (int column = threadIdx.x % threads; column < width; column += threads) {
        get(0, column, values);
        f(0, column, values);
      }
    }
  }

  /// The same, and what f leaves in `values` is stored in `to`, which may be the row itself.
  template <class F>
  __device__ void write(T* to, F f) const {
    each([&](int p, int column, float (&values)[N]) {
      f(p, column, values);
      store_pack(to + column, narrow<T>(values));
    });
  }
};

/// In every thread of a row the sum (or the largest) of what its threads have, in a fixed order. All threads of the block call it.
template <int threads>
__device__ inline float row_sum(float value) {
  value = warp_sum(value);
  if constexpr (threads > warp) {
    __shared__ float sums[threads / warp];
    __syncthreads();
    if (threadIdx.x % warp == 0) sums[threadIdx.x / warp] = value;
    __syncthreads();
    value = sums[0];
#pragma unroll
    for (int w = 1; w < threads / warp; ++w) value += sums[w];
  }
  return value;
}
template <int threads>
__device__ inline float row_max(float value) {
  value = warp_max(value);
  if constexpr (threads > warp) {
    __shared__ float tops[threads / warp];
    __syncthreads();
    if (threadIdx.x % warp == 0) tops[threadIdx.x / warp] = value;
    __syncthreads();
    value = tops[0];
#pragma unroll
    for (int w = 1; w < threads / warp; ++w) value = value > tops[w] ? value : tops[w];
  }
  return value;
}

}  // namespace deeptroupe::gpu
