// Runs the programs of one rank: one coordinator thread that takes runs in order, and its pool. A run that a kernel
// fails, or that is enqueued after an abort, ends with a report; nothing is thrown on these threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "group.h"
#include "program.h"
#include "thread-pool.h"

namespace deeptroupe {

enum class RunStatus { done = 0, aborted = 1, failed = 2 };

struct RunReport {
  RunStatus status = RunStatus::done;
  std::string message;
  /// The instruction that failed, or before which the run was aborted; -1 where it never began.
  int64_t instruction = -1;
  /// First instruction with a non-finite output, where checked; else -1.
  int64_t non_finite = -1;
  /// Start and end of each instruction in seconds of CLOCK_MONOTONIC, where profiled.
  std::vector<double> seconds;
};

struct RunRequest {
  std::shared_ptr<const Program> program;
  std::vector<double> scalars;
  bool check = false;
  bool profile = false;
  /// Called on the coordinator thread.
  std::function<void(RunReport)> done;
};

class Executor {
 public:
  /// The group outlives its executors: it joins them before it goes.
  /// Thread t of the pool, 0 being the coordinator, stays on CPU cores[t], where there is one.
  Executor(Group& group, int rank, int threads, std::vector<int> cores);
  ~Executor();

  void enqueue(RunRequest request);
  /// Ends the thread once all runs enqueued so far are done; then calls `ended` on it.
  void finish(std::function<void()> ended);
  /// Waits until the thread has ended; ends it first where nobody has. From any thread, any number of times.
  void join();
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  Progress progress() const { return progress_.load(std::memory_order_relaxed); }

 private:
  void loop();
  RunReport run(const RunRequest& request);
  void execute(const ProgramInstruction& instruction, const RunRequest& request, std::vector<double>& scalars);

  Group& group_;
  const int rank_;
  const std::vector<int> cores_;
  ThreadPool pool_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<RunRequest> queue_;
  bool finishing_ = false;
  std::vector<std::function<void()>> when_ended_;
  std::atomic<bool> ended_{false};
  /// Written by the coordinator thread.
  std::atomic<Progress> progress_{0};
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace deeptroupe
