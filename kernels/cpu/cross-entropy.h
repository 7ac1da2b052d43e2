// The mathematics of one row of logits, for the cross-entropy alone (cross-entropy.cpp) and fused with the head (linear.cpp):
// both forms give the same bits for the same logits.
#pragma once

#include "row.h"

namespace deeptroupe::DT_ISA {

/// log(sum(e^logit)), online over chunks of classes that fit the first-level cache.
template <class T>
DT_INLINE double log_sum_exp(const T* logits, int64_t classes) {
  constexpr int64_t chunk = 2048;
  float top = -INFINITY;
  double total = 0;
  for (int64_t begin = 0; begin < classes; begin += chunk) {
    const int64_t width = begin + chunk < classes ? chunk : classes - begin;
    const float highest = max_over_row(logits + begin, width);
    if (highest > top) {
      total *= std::exp(static_cast<double>(top) - static_cast<double>(highest));
      top = highest;
    }
    // Where every logit so far is -infinity there is nothing to subtract.
    const float shift = top == -INFINITY ? 0.0f : top;
    total += sum_over_row(
        width, [=](int64_t j, int n) { return exp(load_first(logits + begin + j, n, splat(-INFINITY)) - shift); });
  }
  return (top == -INFINITY ? 0.0 : static_cast<double>(top)) + std::log(total);
}

/// out = factor * (softmax(logits) - onehot(target)), or zeros for the masked target -1; `out` may begin where `logits` does.
template <class O, class T>
DT_INLINE void logit_gradients(O* out, const T* logits, int64_t classes, int32_t target, float lse, float factor) {
  if (target < 0) {
    std::memset(out, 0, sizeof(O) * classes);
    return;
  }
  const vf shift = splat(lse), scale = splat(factor);
  const vf at_target = scale * (exp(splat(widen_one(logits[target])) - shift) - 1.0f);
  for (int64_t j = 0; j < classes; j += VL) {
    const int n = lanes_left(classes - j);
    store_part(out + j, scale * exp(load_part(logits + j, n) - shift), n);
  }
  store_one(out + target, at_target[0]);
}

}  // namespace deeptroupe::DT_ISA
