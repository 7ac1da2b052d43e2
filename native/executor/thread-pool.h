// The threads of one rank. A job is open while tasks remain; helpers that are awake in time take part, the caller
// never waits for a sleeping one. Which thread runs a task is left to chance, so a kernel's results must not depend on
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <exception>
#include <span>
#include <thread>
#include <vector>

#include "../../kernels/cpu/kernel.h"
#include "affinity.h"

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
  void take_seat(int thread) {
    if (!seats_.empty()) seats_[thread].take();
  }
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
  /// One for each thread; none where threads are bound to cores.
  std::deque<Seat> seats_;

  static constexpr uint32_t closed = 0x80000000;
};

}  // namespace deeptroupe
