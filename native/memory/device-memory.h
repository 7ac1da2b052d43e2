// The memory of one rank on its GPU: a single block, cut into the arenas and what the executor keeps beside them. Arenas on the host
// are mapped there and pinned. All of it outlives the rank's thread, so that the next to open the rank can take it over.
#pragma once

#include <array>

#include "../../kernels/abi/abi.h"
#include "../../kernels/cpu/kernel.h"
#include "../executor/group.h"
#include "arena.h"

namespace deeptroupe::gpu {

class DeviceMemory {
 public:
  /// Reserves the block on the calling thread's device, number `device`. Throws MemoryError where there is no room, Error.
  DeviceMemory(int device, int rank, const ArenaBytes& bytes, uint32_t host_arenas, size_t extra_bytes);
  /// From any thread: the CUDA call is made on one of its own.
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  bool on_host(uint32_t arena) const { return host_arenas_ >> arena & 1; }
  /// Maps an arena on the host: zeroed by all threads of the pool, whose processors its pages are near, then pinned. Throws
  /// MemoryError, Error.
  std::byte* reserve_host(uint32_t arena, size_t bytes, Pool& pool);
  /// Of one on the device. 256-byte aligned. `io` is the mirror of what JavaScript sees.
  std::byte* arena(uint32_t arena) const { return block_ + offsets_[arena]; }
  std::byte* extra() const { return block_ + offsets_[abi::arena_count]; }

 private:
  const int device_, rank_;
  const uint32_t host_arenas_;
  RankMemory host_;
  /// Bit a: arena a is pinned.
  uint32_t pinned_ = 0;
  std::byte* block_ = nullptr;
  size_t total_ = 0;
  std::array<size_t, abi::arena_count + 1> offsets_;
};

}  // namespace deeptroupe::gpu
