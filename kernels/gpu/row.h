// Rows in registers: threads that share a row read it once, in packs of 16 bytes, and reduce over it by shuffles. A row that is too long
// for them, or not aligned, is streamed: read again in each pass, element by element.
#pragma once

#include "ahead.h"
#include "operands.h"

namespace deeptroupe::gpu {

inline constexpr int row_threads = 256;

/// `threads` (a warp, or a block of row_threads) share a row; each holds `packs` packs of it, or with 0 none.
template <int threads, int packs>
struct RowShape {};

/// Calls f(RowShape) for rows of `width` elements of T.
template <class T, class F>
void with_row_shape(int64_t width, bool packed, F&& f) {
  const int64_t packs = width / per_pack<T>;
  if (!packed || width % per_pack<T> != 0 || packs > 8 * row_threads) return f(RowShape<row_threads, 0>{});
  if (packs <= warp) return f(RowShape<warp, 1>{});
  if (packs <= 2 * warp) return f(RowShape<warp, 2>{});
  if (packs <= 3 * warp) return f(RowShape<warp, 3>{});
  if (packs <= 4 * warp) return f(RowShape<warp, 4>{});
  if (packs <= 6 * warp) return f(RowShape<warp, 6>{});
  if (packs <= 8 * warp) return f(RowShape<warp, 8>{});
  if (packs <= 2 * row_threads) return f(RowShape<row_threads, 2>{});
  if (packs <= 4 * row_threads) return f(RowShape<row_threads, 4>{});
  return f(RowShape<row_threads, 8>{});
}

/// The row that this thread helps with, and its number among those that do. A block takes row_threads / threads rows.
template <int threads>
__device__ inline int64_t own_row() {
  return int64_t{blockIdx.x} * (row_threads / threads) + threadIdx.x / threads;
}
template <int threads>
inline int64_t row_blocks(int64_t rows) {
  return blocks_of(rows, row_threads / threads);
}

template <class T, int threads, int packs>
struct Row {
  static constexpr int N = packs ? per_pack<T> : 1;
  const T* from;
  int width;
  Pack<T, N> held[packs ? packs : 1];

  __device__ Row(const T* row, int row_width) : from(row), width(row_width) {
    if constexpr (packs > 0) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (column_of(p) < width) held[p] = load_pack<N>(from + column_of(p));
    }
  }

  /// Of packs that came to this thread's places from `first` on.
  __device__ Row(const T* row, int row_width, const Places<T, N>& places, int first) : from(row), width(row_width) {
    if constexpr (packs > 0) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (column_of(p) < width) held[p] = places.get(first + p);
    }
  }

  /// Asks for this thread's packs of a row.
  __device__ static void ask_for(const T* row, int row_width, const Places<T, N>& places, int first) {
    if constexpr (packs > 0) {
#pragma unroll
      for (int p = 0; p < packs; ++p)
        if (column_of(p) < row_width) places.ask(first + p, row + column_of(p));
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
        if (column_of(p) >= width) continue;
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
