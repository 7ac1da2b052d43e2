// The mathematics of one row of logits, for the kernels that stream it from memory (cross-entropy.cu) and for the one that holds it in
// registers (classifier.cu). Legend: V classes.
#pragma once

#include "kernel.h"

namespace deeptroupe::gpu {

inline constexpr float log2_of_e = 1.4426950408889634f;
/// Exponentials of gradients are taken 2^24 times as large, so that small ones reach the last multiplication before they are cut to zero.
inline constexpr float lift = 24.0f, lowering = 0x1p-24f;

/// What logits are taken relative to: their maximum, or 0 where each is -infinity and there is nothing to subtract.
__device__ inline float shift_of(float top) { return top == -INFINITY ? 0.0f : top; }

/// The maximum of some logits, and the sum of e^(logit - shift_of(top)).
struct Mass {
  float top, sum;

  __device__ static Mass none() { return {-INFINITY, 0.0f}; }

  __device__ void rescale(float highest) {
    if (!(highest > top)) return;
    sum *= exp2_fast((top - highest) * log2_of_e);
    top = highest;
  }
};

/// The mass of all lanes, in each.
__device__ inline Mass warp_mass(Mass own) {
  const float top = warp_max(own.top);
  own.sum *= exp2_fast((own.top - shift_of(top)) * log2_of_e);
  return {top, warp_sum(own.sum)};
}

/// The mass of all threads of the block, in each. `slots` has one for each warp; before it is used anew the block must have met.
__device__ inline Mass block_mass(const Mass& own, Mass* slots) {
  const Mass of_warp = warp_mass(own);
  const int lane = threadIdx.x % warp, warps = blockDim.x / warp;
  if (lane == 0) slots[threadIdx.x / warp] = of_warp;
  __syncthreads();
  return warp_mass(lane < warps ? slots[lane] : Mass::none());
}

/// What a row's loss needs beside its mass.
struct RowLoss {
  const int32_t* targets;
  /// May be null.
  double* losses;
  float* lse;
  int64_t classes;
  Fault* fault;
  unsigned instruction;

  /// The class that a row's target names, or -1 where it is masked, or where the target is no class: that is reported.
  __device__ int32_t class_of(int32_t target) const {
    if (target >= 0 && target < classes) return target;
    if (target != -1 && threadIdx.x == 0) report(fault, instruction, target, classes);
    return -1;
  }

  /// By one thread of the block.
  __device__ void store(int64_t row, int32_t target, float logit_of_target, const Mass& mass) const {
    const double value = static_cast<double>(shift_of(mass.top)) + static_cast<double>(logf(mass.sum));
    if (losses) losses[row] = target < 0 ? 0.0 : value - static_cast<double>(logit_of_target);
    if (lse) lse[row] = static_cast<float>(value);
  }
};

/// Chunks of logits that become their own gradient, in the fused head: rows of 16 bits held in registers between one read and one
/// write. False where the device or the shape does not allow it, and nothing was enqueued.
bool enqueue_classifier(const Call& call, const RowLoss& row_loss, DType dtype, void* logits, int64_t stride, int64_t rows,
                        const float* dloss, double scale);

}  // namespace deeptroupe::gpu
