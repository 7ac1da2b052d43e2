// Ranges of elements that one kernel takes: they travel in its parameters, some at a time, cut into tiles of which a block takes one.
#pragma once

#include "operands.h"

namespace deeptroupe::gpu {

struct Ranges {
  static constexpr int most = 120;
  int count;
  /// The first block of each range.
  uint32_t block[most];
  int64_t start[most];
  int64_t end[most];
};

/// Elements begin to end, within one of the ranges.
struct Tile {
  int64_t begin, end;
  int range;
};

/// What this block takes.
__device__ inline Tile own_tile(const Ranges& ranges, int64_t size) {
  int low = 0;
  for (int high = ranges.count; high - low > 1;) {
    const int middle = (low + high) / 2;
    if (ranges.block[middle] <= blockIdx.x) low = middle;
    else high = middle;
  }
  const int64_t begin = ranges.start[low] + (blockIdx.x - ranges.block[low]) * size;
  return {begin, begin + size < ranges.end[low] ? begin + size : ranges.end[low], low};
}

/// Calls enqueue(ranges, blocks) for what `pairs` ((start, count), `numbers` numbers) have within `first` to `last`, in tiles of `size`.
template <class F>
void each_ranges(const int64_t* pairs, int64_t numbers, int64_t first, int64_t last, int64_t size, F&& enqueue) {
  Ranges batch;
  batch.count = 0;
  int64_t blocks = 0;
  const auto flush = [&] {
    if (batch.count > 0) enqueue(batch, static_cast<unsigned>(blocks));
    batch.count = 0;
    blocks = 0;
  };
  for (int64_t i = 0; i + 1 < numbers; i += 2) {
    int64_t begin = pairs[i] > first ? pairs[i] : first;
    const int64_t end = pairs[i] + pairs[i + 1] < last ? pairs[i] + pairs[i + 1] : last;
    // No grid has more blocks than this.
    constexpr int64_t most_blocks = int64_t{1} << 30;
    while (begin < end) {
      if (batch.count == Ranges::most || blocks >= most_blocks) flush();
      const int64_t stop = (end - begin) / size < most_blocks - blocks ? end : begin + (most_blocks - blocks) * size;
      batch.block[batch.count] = static_cast<uint32_t>(blocks);
      batch.start[batch.count] = begin;
      batch.end[batch.count++] = stop;
      blocks += blocks_of(stop - begin, size);
      begin = stop;
    }
  }
  flush();
}

}  // namespace deeptroupe::gpu
