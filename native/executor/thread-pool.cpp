// Fork and join for kernels that last microseconds: one counter hands out tasks, two words tell helpers and caller of
// each other.
#include "thread-pool.h"

#include <utility>

#include "../memory/futex.h"

namespace deeptroupe {
namespace {
constexpr uint32_t open_bit = 1, end_bit = 2, job_unit = 4;
}

ThreadPool::ThreadPool(int threads, std::span<const int> cores) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  if (cores.empty())
    for (int thread = 0; thread < threads; ++thread) seats_.emplace_back(allowed);
  try {
    for (int thread = 1; thread < threads; ++thread)
      helpers_.emplace_back([this, thread, own = std::vector<int>(cores.begin(), cores.end())] {
        stay_on(own, thread);
        help(thread);
      });
  } catch (...) {
    end();
    throw;
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
  job_.fetch_or(end_bit);
  futex_wake_all(job_);
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::run(int64_t tasks, void (*body)(void*, int64_t, int), void* context) {
  take_seat(0);
  if (helpers_.empty() || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task, 0);
    return;
  }
  body_ = body;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  failed_.store(false, std::memory_order_relaxed);
  inside_.store(0, std::memory_order_release);
  job_.fetch_add(job_unit + open_bit);
  if (sleepers_.load() != 0) futex_wake_all(job_);

  work(0);

  job_.fetch_sub(open_bit);
  const auto left = [&] { return inside_.load(std::memory_order_acquire) == closed; };
  inside_.fetch_or(closed, std::memory_order_acq_rel);
  if (!spin_until(left))
    for (uint32_t now; (now = inside_.load(std::memory_order_acquire)) != closed;) futex_wait(inside_, now);
  if (failed_.load(std::memory_order_acquire)) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(int thread) {
  try {
    for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) body_(context_, task, thread);
  } catch (...) {
    next_.store(tasks_, std::memory_order_relaxed);
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
}

void ThreadPool::help(int thread) {
  // Not job_ as it is now: the pool may have ended, or opened a job, before this thread ran.
  uint32_t seen = 0;
  for (;;) {
    const auto changed = [&] { return job_.load(std::memory_order_acquire) != seen; };
    if (!spin_until(changed)) {
      sleepers_.fetch_add(1);
      while (!changed()) futex_wait(job_, seen);
      sleepers_.fetch_sub(1);
    }
    seen = job_.load();
    if (seen & end_bit) return;
    take_seat(thread);
    if (!(seen & open_bit)) continue;
    uint32_t inside = inside_.load(std::memory_order_acquire);
    while (!(inside & closed) && !inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {
    }
    if (inside & closed) continue;
    work(thread);
    if (inside_.fetch_sub(1, std::memory_order_acq_rel) == closed + 1) futex_wake_all(inside_);
  }
}

}  // namespace deeptroupe
