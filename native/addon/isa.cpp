// Choice of the kernel table at run time.
#include "isa.h"

#include "../executor/group.h"

namespace deeptroupe {

namespace avx512_bf16 {
const KernelTable& kernel_table();
}
namespace avx512 {
const KernelTable& kernel_table();
}
namespace avx2 {
const KernelTable& kernel_table();
}
namespace portable {
const KernelTable& kernel_table();
}

const std::array<IsaLevel, 4>& isa_levels() {
  static const std::array<IsaLevel, 4> levels = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    return std::array<IsaLevel, 4>{{{"avx512_bf16", bf16, avx512_bf16::kernel_table},
                                    {"avx512", avx512, avx512::kernel_table},
                                    {"avx2", avx2, avx2::kernel_table},
                                    {"portable", true, portable::kernel_table}}};
  }();
  return levels;
}

const KernelTable& kernels_of(const std::string& name) {
  std::string available;
  for (const IsaLevel& level : isa_levels()) {
    if (!level.available) continue;
    if (level.name == name) return level.kernels();
    available += (available.empty() ? "" : ", ") + std::string(level.name);
  }
  throw UsageError("group: instruction set, expected one of " + available + ", got " + name);
}

}  // namespace deeptroupe
