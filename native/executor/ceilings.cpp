// Threads start each round together; it lasts from the first one's start to the last one's end.
#include "ceilings.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "../memory/arena.h"

namespace deeptroupe {
namespace {

/// Operations of one round on one thread: below a millisecond, so that some round is undisturbed on a machine that does other things.
constexpr double operations = 1e8;
/// Elements of each of the two arrays of the stream: 128 MiB for a thread, 512 MiB at most for all, more than caches hold.
constexpr int64_t elements_of_thread = int64_t{1} << 25, most_elements = int64_t{1} << 27;

/// The best of several rounds: `work(thread)` is done by each thread and gives its amount.
double best_rate(int threads, int rounds, const std::function<double(int)>& work) {
  using Clock = std::chrono::steady_clock;
  std::barrier together(threads);
  struct Part {
    double amount;
    Clock::time_point start, end;
  };
  std::vector<Part> parts(threads);
  double best = 0;
  const auto run = [&](int thread) {
    // The first round warms up.
    for (int round = 0; round <= rounds; ++round) {
      together.arrive_and_wait();
      const auto start = Clock::now();
      const double amount = work(thread);
      parts[thread] = {amount, start, Clock::now()};
      together.arrive_and_wait();
      if (thread != 0 || round == 0) continue;
      double all = 0;
      Clock::time_point first = parts[0].start, last = parts[0].end;
      for (const Part& part : parts) {
        all += part.amount;
        first = std::min(first, part.start);
        last = std::max(last, part.end);
      }
      best = std::max(best, all / std::chrono::duration<double>(last - first).count());
    }
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(run, thread);
  run(0);
  for (std::thread& other : others) other.join();
  return best;
}

double products(const KernelTable& kernels, int threads, DType dtype) {
  constexpr int64_t trial = 1024;
  const int64_t count = std::max<int64_t>(1, static_cast<int64_t>(trial * operations / kernels.multiply_adds(dtype, trial)));
  return best_rate(threads, 60, [&](int) { return kernels.multiply_adds(dtype, count); });
}

}  // namespace

Ceilings measure_ceilings(const KernelTable& kernels, int threads) {
  const int64_t elements = std::min(threads * elements_of_thread, most_elements);
  Arena arrays;
  arrays.reserve(2 * elements * sizeof(float));
  float* const to = reinterpret_cast<float*>(arrays.base());
  const float* const from = to + elements;
  // Memory that was never written is one page of zeros.
  std::fill_n(to, 2 * elements, 1.0f);
  const int64_t share = elements / threads / 16 * 16;
  const double bytes = best_rate(threads, 10, [&](int thread) {
    kernels.stream(to + thread * share, from + thread * share, share);
    return 12.0 * static_cast<double>(share);
  });
  return {products(kernels, threads, DType::f32), products(kernels, threads, DType::bf16), bytes};
}

}  // namespace deeptroupe
