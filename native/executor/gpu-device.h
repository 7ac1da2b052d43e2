// A group whose ranks run on GPUs, each on one of its own: which GPU that is, and what outlives a rank's thread.
#pragma once

#include <atomic>

#include "../addon/gpu.h"
#include "../collective/gpu-communicator.h"
#include "../memory/device-memory.h"

namespace deeptroupe::gpu {

class GpuDevice final : public Device {
 public:
  GpuDevice(int ranks, const GpuOptions& options) : options_(options), memory_(ranks), met_(ranks) {}

  std::shared_ptr<Executor> open(Group& group, int rank, int threads, std::vector<int> cores) override;
  void release(Group& group, int rank) override;

  const GpuOptions& options() const { return options_; }
  /// The number of a rank's GPU in this process.
  int number(int rank) const { return rank; }
  /// The block of a rank: the one that was kept, or a new one. On the rank's thread.
  DeviceMemory& memory(const Group& group, int rank, size_t extra_bytes);
  MeetingPlace& meeting_place() { return meeting_place_; }

  /// Says that the first `runs` runs of a rank in which ranks met have ended well; 0 when it opens.
  void tell_met(int rank, uint64_t runs) { met_[rank].store(runs, std::memory_order_release); }
  /// Whether those of every rank have.
  bool all_met(uint64_t runs) const;

 private:
  const GpuOptions options_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
  MeetingPlace meeting_place_;
  std::vector<std::atomic<uint64_t>> met_;
};

}  // namespace deeptroupe::gpu
