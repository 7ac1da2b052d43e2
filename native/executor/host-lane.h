// What a GPU's rank computes on the host: instructions whose operands lie in the host's memory, one after the other on a thread of its
// own with a pool of helpers. The rank's thread posts them and asks how far they are.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "program.h"
#include "thread-pool.h"

namespace deeptroupe {

/// What is to be known of the instructions of one run that are done on the host.
struct HostNews {
  static constexpr uint32_t all_finite = 0xffffffff;
  /// The first with a non-finite output, where that was to be checked.
  std::atomic<uint32_t> non_finite{all_finite};
  /// Start and end of each instruction of the program in seconds of CLOCK_MONOTONIC; empty where not to be measured.
  std::vector<double> seconds;
};

struct HostTask {
  const ProgramInstruction* instruction;
  uint32_t number;
  std::shared_ptr<const std::vector<double>> scalars;
  std::shared_ptr<HostNews> news;
  bool check = false;
};

class HostLane {
 public:
  /// Helper t stays on CPU cores[t], where there is one. `moved` is called on the lane's thread after each task.
  HostLane(int threads, std::vector<int> cores, const KernelTable& kernels, int rank, int ranks, std::function<void()> moved);
  /// Ends the task that is under way and drops the others.
  ~HostLane();

  /// Gives the number by which the task is known: `done()` has reached it once it is done.
  uint64_t post(HostTask task);
  uint64_t done() const { return done_.load(std::memory_order_acquire); }
  /// Throws KernelError where a task has failed. No task after that one is done.
  void expect_well() const;
  /// Drops what has not begun and waits for what has.
  void drop();
  ThreadPool& pool() { return pool_; }

 private:
  void serve();
  void execute(const HostTask& task);

  const KernelTable& kernels_;
  const int rank_, ranks_;
  const std::vector<int> cores_;
  const std::function<void()> moved_;
  ThreadPool pool_;
  mutable std::mutex mutex_;
  std::condition_variable wake_, rested_;
  std::deque<HostTask> tasks_;
  uint64_t posted_ = 0;
  std::atomic<uint64_t> done_{0};
  bool working_ = false, ending_ = false;
  std::atomic<bool> failed_{false};
  std::string failure_;
  std::thread thread_;
};

}  // namespace deeptroupe
