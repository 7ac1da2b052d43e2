// One rank's NCCL communicator in a group that may be aborted. A thread of its own watches for that, because the rank's thread may be
// waiting for the device, and the device for a rank that never comes. It also hears of errors that no call returns.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "communicator.h"
#include "gpu-collectives.h"

namespace deeptroupe::gpu {

class GpuCommunicator {
 public:
  /// Meets the other ranks' threads, each of which has its GPU as current device. `id` is shared by all of them. Throws Aborted, Error.
  GpuCommunicator(Communicator& group, int device, int rank, NcclId& id);
  ~GpuCommunicator();

  /// Throws Aborted, Error.
  void enqueue(abi::Opcode opcode, const Call& call);

 private:
  void watch();
  void end();

  Communicator& group_;
  const int device_, rank_;
  std::unique_ptr<NcclRank> nccl_;
  /// Held while the rank's thread is inside NCCL.
  std::timed_mutex inside_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread watcher_;
};

}  // namespace deeptroupe::gpu
