// Runs programs on one GPU. The rank's thread makes all CUDA calls of the rank: JavaScript's copies are posted to it. It has up to two
// runs on the device, so that the device goes from one to the next while JavaScript turns, and asks now and then whether the first is
// done; it never waits for a run in a way that would keep it from enqueuing the next. A run may have a tail, which goes on when it was
// answered: the next run waits for what it needs of it, all else for the whole.
#pragma once

#include <future>
#include <map>
#include <unordered_map>

#include "../memory/staging.h"
#include "executor.h"
#include "gpu-device.h"
#include "gpu-program.h"
#include "run-slot.h"

namespace deeptroupe::gpu {

/// What is captured as graphs: nothing, what lies between collectives, or a whole run with its collectives.
enum class Graphs { none, segments, whole };

class GpuExecutor final : public Executor {
 public:
  /// `threads` and `cores` of what is done on the host.
  GpuExecutor(Group& group, GpuDevice& device, int rank, int threads, std::vector<int> cores);
  ~GpuExecutor() override { join(); }

  void expect_open() override { opened_.get(); }
  std::shared_ptr<const ScheduledProgram> load(std::span<const std::byte> bytes) override;
  void allocate(uint32_t arena) override;
  void read(uint32_t arena, double offset, std::byte* target, size_t bytes) override;
  void write(uint32_t arena, double offset, const std::byte* source, size_t bytes) override;
  Progress progress() override;

 protected:
  void serve() override;

 private:
  static constexpr size_t most_flights = 2;

  /// A run that is to be answered.
  struct Flight {
    RunRequest request;
    GpuProgram* program;
    std::shared_ptr<Launch> launch;
    RunSlot* slot;
    /// Instructions of all runs before this one.
    uint64_t before;
    /// Which of the runs in which ranks meet this one is, from 1; 0: none.
    uint64_t meeting;
    /// The run before, in which ranks met, may still have been going on.
    bool behind = false;
  };

  /// Runs `body` on the rank's thread and waits for it.
  void call(const char* operation, std::function<void()> body);

  void open();
  void close();
  bool can_start(const RunRequest& request) const;
  Pace pace_of(const RunRequest& request, const GpuProgram& program) const;
  void start(RunRequest request);
  void prepare(Launch& launch, const Flight& flight);
  /// Goes on putting runs onto the lanes.
  void proceed();
  /// Ends the run that is being put onto the lanes, after an abort or, with a `message`, a failure.
  void give_up(std::string message);
  void poll();
  /// Looks whether the tail of the last run is done.
  void settle();
  bool on_host(uint32_t arena) const { return device_.options().host_arenas >> arena & 1; }
  /// After an abort graphs that hold collectives go at once: NCCL waits for those of all ranks when it ends one.
  bool graphs_go() const { return whole_graphs_ && idle() && group_.communicator.aborted(); }
  void drop_graphs();
  /// Nothing is on its way.
  bool idle() const { return flights_.empty() && settled_; }
  const Crossing& crossing(const GpuProgram& earlier, const GpuProgram& later);
  /// Of a run that the device has done. One in which ranks met ends when it has ended well on all of them: one rank's fault is in
  /// what the others received.
  bool waits_for_peers(const Flight& flight);
  void complete(Flight& flight);
  void end(Flight& flight, RunStatus status, int64_t instruction, const std::string& message);
  /// Ends all flights after an error of the device.
  void break_down(Status status);
  /// What the streams say of how far a flight is.
  uint32_t reached(const Flight& flight) const;
  std::chrono::nanoseconds patience() const;

  GpuDevice& device_;
  const bool step_;
  const int threads_;
  const std::vector<int> cores_;
  std::promise<void> opening_;
  std::shared_future<void> opened_;
  /// Guarded by `mutex_`.
  std::deque<std::packaged_task<void()>> tasks_;
  bool accepting_ = true;

  // What follows is the thread's alone.
  Graphs graphs_ = Graphs::segments;
  /// There are graphs that hold collectives.
  bool whole_graphs_ = false;
  std::unique_ptr<RankContext> context_;
  std::unordered_map<const Program*, std::unique_ptr<GpuProgram>> programs_;
  std::vector<RunSlot> slots_;
  uint64_t started_ = 0;
  /// Instructions of all runs that were begun.
  uint64_t instructions_ = 0;
  uint64_t meetings_ = 0;
  std::deque<Flight> flights_;
  /// The run whose answer is not yet on its lane: the last flight's; and the one before it, which may have a tail that still goes on.
  std::shared_ptr<Launch> leading_, trailing_;
  /// The tail of `trailing_` was done before any abort.
  bool well_ = false;
  /// No run is being put onto lanes and no tail goes on.
  bool settled_ = true;
  std::map<std::pair<const GpuProgram*, const GpuProgram*>, Crossing> crossings_;
  std::chrono::steady_clock::time_point waiting_since_;
  std::unique_ptr<Staging> staging_;
  /// Events of a run that is profiled: before it, and around each instruction.
  Event anchor_;
  /// When `anchor_` happened, in seconds of CLOCK_MONOTONIC.
  double anchored_ = 0;
  std::vector<Event> around_;
  /// What this rank's memory holds is not what its programs should have made.
  bool doubtful_ = false;

  std::atomic<bool> meeting_{false};
  std::mutex progress_mutex_;
  Pinned crumb_memory_;
  /// Null before the thread has opened and after it has ended; then `last_progress_` holds.
  Crumbs* crumbs_ = nullptr;
  Progress last_progress_ = 0;
};

}  // namespace deeptroupe::gpu
