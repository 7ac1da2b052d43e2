// Reductions over one row, in an order that depends on its width alone.
#pragma once

#include "convert.h"

namespace deeptroupe::DT_ISA {

/// The sum of the vectors f(offset, lanes), whose lanes beyond `lanes` must be zero: runs of 2048 elements in four running vectors,
/// the runs in float64.
template <class F>
DT_INLINE double sum_over_row(int64_t width, F f) {
  constexpr int64_t run = 2048;
  double total = 0;
  for (int64_t begin = 0; begin < width; begin += run) {
    const int64_t end = begin + run < width ? begin + run : width;
    vf s[4] = {};
    int64_t j = begin;
    for (; j + 4 * VL <= end; j += 4 * VL)
      for (int u = 0; u < 4; ++u) s[u] += f(j + u * VL, VL);
    for (; j < end; j += VL) s[0] += f(j, lanes_left(end - j));
    total += static_cast<double>(sum((s[0] + s[1]) + (s[2] + s[3])));
  }
  return total;
}

/// The largest element; NaN is passed over. -infinity of an empty row.
template <class T>
DT_INLINE float max_over_row(const T* x, int64_t width) {
  const vf lowest = splat(-INFINITY);
  vf top[4] = {lowest, lowest, lowest, lowest};
  int64_t j = 0;
  for (; j + 4 * VL <= width; j += 4 * VL)
    for (int u = 0; u < 4; ++u) top[u] = max(load(x + j + u * VL), top[u]);
  for (; j < width; j += VL) top[0] = max(load_first(x + j, lanes_left(width - j), lowest), top[0]);
  return hmax(max(max(top[0], top[1]), max(top[2], top[3])));
}

}  // namespace deeptroupe::DT_ISA
