// One rank's thread and what it does in order: runs, until it is told to finish. What a run is and where memory lies is the
// part of each device (cpu-executor.h, gpu-executor.h). A run that a kernel fails, or that is enqueued after an abort, ends
// with a report; nothing is thrown on these threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "group.h"
#include "schedule.h"

namespace deeptroupe {

enum class RunStatus { done = 0, aborted = 1, failed = 2 };

/// Bytes of the `io` arena.
struct IoBytes {
  uint64_t offset;
  std::vector<std::byte> bytes;
};

struct RunReport {
  RunStatus status = RunStatus::done;
  std::string message;
  /// The instruction that failed, or before which the run was aborted; -1 where it never began.
  int64_t instruction = -1;
  /// First instruction with a non-finite output, where checked; else -1.
  int64_t non_finite = -1;
  /// Start and end of each instruction in seconds of CLOCK_MONOTONIC, where profiled.
  std::vector<double> seconds;
  /// What the run wrote into `io`.
  std::vector<IoBytes> io;
};

struct RunRequest {
  std::shared_ptr<const ScheduledProgram> program;
  std::vector<double> scalars;
  /// What the run reads of `io`, range by range, as it was when the run was asked for.
  std::vector<std::byte> io;
  bool check = false;
  bool profile = false;
  /// Called on the rank's thread.
  std::function<void(RunReport)> done;
};

class Executor {
 public:
  virtual ~Executor() = default;

  /// Waits until the rank can be used. Throws what kept it from that.
  virtual void expect_open() {}
  /// Decodes and checks a program against the arenas that it names. Throws ProgramError.
  virtual std::shared_ptr<const ScheduledProgram> load(std::span<const std::byte> bytes) = 0;
  /// Reserves an arena, zeroed. Throws UsageError where there is one, and where memory is short.
  virtual void allocate(uint32_t arena) = 0;
  /// Copies out of an arena; not while a run is writing there. Throws UsageError.
  virtual void read(uint32_t arena, double offset, std::byte* target, size_t bytes) = 0;
  virtual void write(uint32_t arena, double offset, const std::byte* source, size_t bytes) = 0;
  /// Takes what the run reads of `io`. On the thread that asks for the run.
  void take_io(RunRequest& request) const;
  virtual Progress progress() = 0;

  void enqueue(RunRequest request);
  /// Ends the thread once all runs enqueued so far are done; then calls `ended` on it.
  void finish(std::function<void()> ended);
  /// Waits until the thread has ended; ends it first where nobody has. From any thread, any number of times.
  void join();
  bool ended() const { return ended_.load(std::memory_order_acquire); }

 protected:
  /// The group outlives its executors: it joins them before it goes.
  Executor(Group& group, int rank) : group_(group), rank_(rank) {}
  /// Starts the thread: the last that a constructor does. Its destructor joins it before anything else.
  void start();
  /// What the thread does until `finishing_` and nothing is enqueued.
  virtual void serve() = 0;
  /// Waits for the next run; nothing where there will be none.
  std::optional<RunRequest> next();
  /// The bytes of an arena, which must have them; of `io` those that JavaScript sees. `memory_mutex` is held.
  std::byte* place(const char* operation, uint32_t arena, double offset, size_t bytes) const;
  /// Throws UsageError where the arena exists. `memory_mutex` is held.
  Arena& expect_free(uint32_t arena) const;
  UsageError closed(const char* operation) const;

  static constexpr auto io_arena = static_cast<uint32_t>(abi::Arena::io);

  Group& group_;
  const int rank_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<RunRequest> queue_;
  bool finishing_ = false;

 private:
  std::vector<std::function<void()>> when_ended_;
  std::atomic<bool> ended_{false};
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace deeptroupe
