// The instruction sets that kernels are compiled for, best first, and which of them this machine can run.
#pragma once

#include <array>
#include <string>

#include "../../kernels/cpu/kernel.h"

namespace deeptroupe {

struct IsaLevel {
  const char* name;
  /// Asked of the processor and of the operating system, which must save the wide registers.
  bool available;
  const KernelTable& (*kernels)();
};

const std::array<IsaLevel, 4>& isa_levels();

/// Throws UsageError where the machine lacks `name`.
const KernelTable& kernels_of(const std::string& name);

}  // namespace deeptroupe
