// Which CPUs threads run on.
#pragma once

#include <sched.h>

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

}  // namespace deeptroupe
