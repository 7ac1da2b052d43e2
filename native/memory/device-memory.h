// The memory of one rank on its GPU: a single block, cut into the arenas and what the executor keeps beside them. It outlives the
// rank's thread, so that the next to open the rank can take it over.
#pragma once

#include <array>

#include "../../kernels/abi/abi.h"
#include "../executor/group.h"

namespace deeptroupe::gpu {

class DeviceMemory {
 public:
  /// Reserves the block on the calling thread's device, number `device`. Throws MemoryError where there is no room, Error.
  DeviceMemory(int device, int rank, const ArenaBytes& bytes, size_t extra_bytes);
  /// From any thread: the CUDA call is made on one of its own.
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// 256-byte aligned. `io` is the mirror of what JavaScript sees.
  std::byte* arena(uint32_t arena) const { return block_ + offsets_[arena]; }
  std::byte* extra() const { return block_ + offsets_[abi::arena_count]; }

 private:
  const int device_;
  std::byte* block_ = nullptr;
  size_t total_ = 0;
  std::array<size_t, abi::arena_count + 1> offsets_;
};

}  // namespace deeptroupe::gpu
