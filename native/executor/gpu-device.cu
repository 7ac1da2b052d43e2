#include "gpu-device.h"

#include <algorithm>

#include "gpu-executor.h"

namespace deeptroupe::gpu {

std::shared_ptr<Executor> GpuDevice::open(Group& group, int rank, int threads, std::vector<int> cores) {
  return std::make_shared<GpuExecutor>(group, *this, rank, threads, std::move(cores));
}

DeviceMemory& GpuDevice::memory(const Group& group, int rank, size_t extra_bytes) {
  std::unique_ptr<DeviceMemory>& memory = memory_[rank];
  if (!memory) memory = std::make_unique<DeviceMemory>(number(rank), rank, group.bytes, options_.host_arenas, extra_bytes);
  return *memory;
}

bool GpuDevice::all_met(uint64_t runs) const {
  return std::ranges::all_of(met_, [&](const std::atomic<uint64_t>& met) { return met.load(std::memory_order_acquire) >= runs; });
}

void GpuDevice::release(Group& group, int rank) {
  constexpr auto io = static_cast<uint32_t>(abi::Arena::io);
  for (Arena& arena : group.memory[rank]) arena.release();
  group.memory[rank][io].adopt(group.io[rank], group.bytes[io]);
  memory_[rank].reset();
}

}  // namespace deeptroupe::gpu
