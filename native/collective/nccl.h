// NCCL (RCCL on AMD), opened at run time, and one rank's end of a communicator: it moves bytes, sums are ours. One thread uses a rank; only abort() and
// async_error() may come from others. NVLink multicast and registered buffers stay off: NCCL_NVLS_ENABLE=0 and
// NCCL_GRAPH_REGISTER=0 are set before the library is opened.
#pragma once

#include <atomic>
#include <mutex>

#include "../../kernels/gpu/gpu.h"

namespace deeptroupe::gpu {

/// What the ranks of one communicator must share to find each other.
struct NcclId {
  char bytes[128];
};

/// Empty where NCCL can be used, else why not.
std::string nccl_missing();

/// 23004 for 2.30.4. Throws Error.
int nccl_version();

/// On one rank, for all. Throws Error.
NcclId new_nccl_id();

/// Each call enqueues on the stream and throws Error with NCCL's last message, or where the communicator was aborted.
class NcclRank {
 public:
  /// Returns when all ranks have come; the calling thread's current device is the rank's. Throws Error.
  NcclRank(int ranks, int rank, const NcclId& id);
  ~NcclRank();
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  /// `bytes` of each rank; in place where source = target + rank * bytes.
  void all_gather(const void* source, void* target, size_t bytes, Stream stream);
  /// Between group_start and group_end, sends and receives of all ranks meet in any order.
  void send(const void* source, size_t bytes, int peer, Stream stream);
  void receive(void* target, size_t bytes, int peer, Stream stream);
  void group_start();
  void group_end();

  /// Ends what is in flight and the communicator with it.
  void abort();
  /// Empty while all is well; else what went wrong behind the calls.
  std::string async_error();

 private:
  /// The communicator, which must live.
  void* live() const;
  void check(int result, const char* what) const;

  std::atomic<void*> communicator_{nullptr};
  /// Held while the communicator is looked at or ended by another thread.
  std::mutex ending_;
};

}  // namespace deeptroupe::gpu
