// Which CPUs threads run on.
#pragma once

#include <sched.h>

#include <array>
#include <atomic>
#include <span>
#include <string>

#include "group.h"

namespace deeptroupe {

/// Keeps the calling thread on one CPU; on any where `cores` has none for it.
inline void stay_on(std::span<const int> cores, size_t thread) {
  if (thread >= cores.size()) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cores[thread], &one);
  sched_setaffinity(0, sizeof one, &one);
}

/// Throws UsageError for a CPU that the calling thread, and so what it starts, may not use.
inline void expect_allowed(std::span<const int> cores) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (const int core : cores)
    if (core < 0 || core >= CPU_SETSIZE || !CPU_ISSET(core, &allowed))
      throw UsageError("rank: core, expected one that this process may use, got " + std::to_string(core));
}

/// Keeps threads that work at the same time off each other's CPUs. The scheduler likes to put a woken thread beside the one that woke
/// it, where it waits instead of working: a thread that finds itself on the CPU of another thread's seat leaves it for a free one.
class Seat {
 public:
  /// Of the threads that use seats here, `allowed` are the CPUs.
  explicit Seat(const cpu_set_t& allowed) : allowed_(allowed) {}
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;
  ~Seat() { leave(); }

  /// Called by the thread of this seat as it begins some work. Where no CPU is free, it stays where it is.
  void take() {
    const int here = sched_getcpu();
    if (here < 0 || here == own_ || here >= CPU_SETSIZE || sit(here)) return;
    cpu_set_t free;
    CPU_ZERO(&free);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &allowed_) && (cpu == own_ || !taken_[cpu].load(std::memory_order_relaxed))) CPU_SET(cpu, &free);
    if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
    if (const int now = sched_getcpu(); now >= 0 && now != own_ && now < CPU_SETSIZE) sit(now);
  }

 private:
  bool sit(int cpu) {
    if (taken_[cpu].exchange(true, std::memory_order_relaxed)) return false;
    leave();
    own_ = cpu;
    return true;
  }
  void leave() {
    if (own_ >= 0) taken_[own_].store(false, std::memory_order_relaxed);
    own_ = -1;
  }

  const cpu_set_t allowed_;
  int own_ = -1;
  /// Of this process.
  static inline std::array<std::atomic<bool>, CPU_SETSIZE> taken_{};
};

}  // namespace deeptroupe
