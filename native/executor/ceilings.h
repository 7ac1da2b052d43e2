// What this machine can reach at most, measured: the ceilings that a profile holds instructions against.
#pragma once

#include "../../kernels/cpu/kernel.h"

namespace deeptroupe {

/// Of all threads together, in a second.
struct Ceilings {
  /// Floating-point operations of products of f32, and of bf16.
  double f32, bf16;
  /// Bytes through memory, two thirds read and one third written.
  double bytes;
};

/// Runs `threads` threads at once for half a second or so and takes the best of several rounds. Throws std::bad_alloc
/// where there is no memory to stream through, 256 MiB for each thread and 1 GiB at most.
Ceilings measure_ceilings(const KernelTable& kernels, int threads);

}  // namespace deeptroupe
