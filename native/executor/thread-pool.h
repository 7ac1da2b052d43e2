// The threads of one rank. A job is open while tasks remain; helpers that are awake in time take part, the caller
// never waits for a sleeping one. Which thread runs a task is left to chance, so a kernel's results must not depend on
// it. The scheduler likes to put a woken thread beside the one that woke it, where it waits for the caller instead of
// helping: a helper that finds itself on the processor of another thread of the pool leaves that processor.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include "../../kernels/cpu/kernel.h"

namespace deeptroupe {

class ThreadPool final : public Pool {
 public:
  /// Starts threads - 1 helpers; the caller of run() is thread 0. Helper t stays on CPU cores[t], where there is one.
  explicit ThreadPool(int threads, std::span<const int> cores = {});
  ~ThreadPool() override;
  int threads() const override { return static_cast<int>(helpers_.size()) + 1; }
  void run(int64_t tasks, void (*body)(void*, int64_t, int), void* context) override;

 private:
  void help(int thread);
  void work(int thread);
  /// Takes note of the processor that the thread is on; a helper leaves one that a thread before it is on.
  void spread(int thread);
  void end();

  /// Bit 0: a job is open. Bit 1: the pool ends. The rest counts jobs. Idle helpers sleep on this word.
  alignas(64) std::atomic<uint32_t> job_{0};
  std::atomic<uint32_t> sleepers_{0};
  /// Helpers inside the job, plus `closed` once the caller is done with its share. The caller sleeps on this word.
  alignas(64) std::atomic<uint32_t> inside_{closed};
  alignas(64) std::atomic<int64_t> next_{0};
  int64_t tasks_ = 0;
  void (*body_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> failed_{false};
  std::exception_ptr failure_;
  std::vector<std::thread> helpers_;
  /// Each thread has a processor of its own and stays there.
  const bool bound_;
  /// The processors that the threads may use.
  cpu_set_t allowed_;
  /// The processor of each thread when it last began.
  std::vector<std::atomic<int>> processors_;

  static constexpr uint32_t closed = 0x80000000;
};

}  // namespace deeptroupe
