// The last step of sums over rows: sums of chunks of rows, in order. Which warp adds which chunks follows from their number alone.
#pragma once

#include "operands.h"

namespace deeptroupe::gpu {

inline constexpr int total_warps = 32;

/// Sums that lie side by side, `width` columns each; null: not wanted.
template <class O>
struct Totals {
  int64_t width;
  int count;
  O* to[3];
};

/// Adds `chunks` rows of floats: each of 32 warps an equal run of them in order, then the runs' sums in order.
template <class O>
__global__ __launch_bounds__(warp * total_warps) void total_kernel(const float* partial, const int64_t chunks, const Totals<O> totals) {
  const int64_t columns = totals.width * totals.count;
  __shared__ float sums[total_warps][warp];
  const int lane = threadIdx.x % warp, run = threadIdx.x / warp;
  const int64_t column = int64_t{blockIdx.x} * warp + lane, share = (chunks + total_warps - 1) / total_warps;
  const int64_t begin = run * share, end = begin + share < chunks ? begin + share : chunks;
  float sum = 0.0f;
  if (column < columns) {
#pragma unroll 8
    for (int64_t chunk = begin; chunk < end; ++chunk) sum += partial[chunk * columns + column];
  }
  sums[run][lane] = sum;
  __syncthreads();
  if (run != 0 || column >= columns) return;
  for (int other = 1; other < total_warps; ++other) sum += sums[other][lane];
  const int64_t which = column / totals.width;
  O* const to = which == 0 ? totals.to[0] : which == 1 ? totals.to[1] : totals.to[2];
  if (to) to[column - which * totals.width] = from_float<O>(sum);
}

template <class O>
void total(const char* op, const Call& call, const float* partial, int64_t chunks, const Totals<O>& totals) {
  if (totals.width == 0) return;
  launch(total_kernel<O>, grid_of(op, blocks_of(totals.width * totals.count, warp)), warp * total_warps, 0, call.stream, partial, chunks,
         totals);
}

}  // namespace deeptroupe::gpu
