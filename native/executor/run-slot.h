// Pinned memory that the numbers of one run pass through: scalars and what the run reads of `io` on the way to the device, its verdict
// and what it wrote on the way back. A slot is free again when its run is done.
#pragma once

#include "executor.h"
#include "gpu-program.h"

namespace deeptroupe::gpu {

class RunSlot {
 public:
  explicit RunSlot(size_t io_bytes);

  /// Enqueues the copies to the device ahead of a run; `mirror` is the device's `io`. Throws Error.
  void tell(const RankContext& context, const RunRequest& request, const IoUse& io, uint64_t before, std::byte* mirror);
  /// Enqueues the copies back behind it. Throws Error.
  void ask(const RankContext& context, const IoUse& io, const std::byte* mirror);
  /// Success once the run is done, cudaErrorNotReady until then; else the device's error.
  Status status() const;

  /// Of a run that is done.
  const Control& answer() const { return *answered_; }
  std::vector<IoBytes> io_written(const IoUse& io) const;

 private:
  Pinned memory_;
  /// Of both only the head and as many scalars as there are.
  Control *told_, *answered_;
  std::byte *io_read_, *io_written_;
  Event done_;
};

}  // namespace deeptroupe::gpu
