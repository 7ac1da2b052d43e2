// What attention's forward and backward on Hopper share: boxes of tensors as the copy engine brings them, and rings of places for them.
// A tile of rows of D numbers is D / 64 boxes beside each other, each with all rows of the tile, 64 columns wide.
#pragma once

#include "attention-mma.h"
#include "hopper.h"

#if !defined(__HIP__)

// For other chips the kernels are compiled empty.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#pragma nv_diag_suppress 177
#endif

namespace deeptroupe::gpu {

/// Rows and columns of a box that one copy brings.
inline constexpr int BOX = 64;
inline constexpr int BOX_BYTES = BOX * BOX * 2;

/// A place in a ring of `STAGES`, and the parity of its phase.
template <int STAGES>
struct Place {
  int stage = 0, parity = 0;
  __device__ void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

/// [B, T, width] of 16-bit numbers in boxes of 64 columns and `rows` positions. Throws Error.
CUtensorMap box_map(const Tensor& tensor, int rows);

/// Whether a call of this plan whose operands lie at `pointers` goes to Hopper's warpgroups.
bool fits_hopper(const Call& call, const Plan& plan, std::initializer_list<const void*> pointers);

/// Calls f with a value of `T` and the head size as a constant, for the pairs that these kernels are compiled for.
template <class F>
void with_hopper_types(DType dtype, int size, F&& f) {
  const auto with_size = [&]<class T>(T) {
    if (size == 64) return f.template operator()<T, 64>();
    return f.template operator()<T, 128>();
  };
  if (dtype == DType::bf16) return with_size(bf16{});
  return with_size(f16{});
}

}  // namespace deeptroupe::gpu

#endif
