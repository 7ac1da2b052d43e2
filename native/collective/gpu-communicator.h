// One rank's end of what the ranks of a group that may be aborted do together: its way to its peers' memory, where it copies from there, else its
// NCCL communicator. A thread of its own watches for an abort, because the rank's thread may be waiting for the device, and the device
// for a rank that never comes. It also hears of errors that no call returns.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "communicator.h"
#include "gpu-collectives.h"

namespace deeptroupe::gpu {

/// Where rank 0 leaves what all need to meet.
struct MeetingPlace {
  NcclId id{};
  /// Null where NCCL moves everything.
  std::shared_ptr<Peers::Board> board;
};

/// What the ranks of a communicator have in common.
struct Members {
  Communicator& group;
  const std::vector<RankMemory>& memory;
  /// By rank, the number of its GPU.
  std::vector<int> devices;
  /// Whether to copy from each other's memory, where that is possible.
  bool copies;
  MeetingPlace& place;
};

/// Whether ranks are to copy from each other's memory where they can; else NCCL moves everything. Throws Error.
bool wants_copies();

class GpuCommunicator {
 public:
  /// Meets the other ranks' threads, each of which has its GPU as current device. `lost` is called after an abort, on a thread of its own.
  /// Throws Aborted, Error.
  GpuCommunicator(const Members& members, int rank, std::function<void()> lost);
  ~GpuCommunicator();

  /// As enqueue_collective. Throws Aborted, Error.
  bool enqueue(abi::Opcode opcode, const Call& call);

 private:
  void watch();
  /// Lets go of all that the device waits for, until it does no more.
  void let_go(std::unique_lock<std::mutex>& lock);
  void end();

  Communicator& group_;
  const int device_, rank_;
  /// One of the two.
  std::unique_ptr<NcclRank> nccl_;
  std::unique_ptr<Peers> peers_;
  const std::function<void()> lost_;
  /// Held while the rank's thread enqueues: NCCL is not ended meanwhile, where that can be helped.
  std::timed_mutex inside_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread watcher_;
};

}  // namespace deeptroupe::gpu
