// The state that steps hand on: how kernels/ops/step.ts decides on an update, one source for every backend.
#pragma once

#include <cstdint>

#include "abi.h"
#include "tensor.h"

namespace deeptroupe {

/// Takes control and state to what they are after a step; `decided` may not be `control`.
DT_ANYWHERE void control_step(const abi::StepControlAttributes& rule, double taken, double follows, const double* control,
                              double* state, double* decided) {
  double &scale = state[0], &seen = state[1], &overflowed = state[2], &left = state[3], &made = state[4], &stopped = state[5];
  const bool finite = control[2] != 0, dynamic = rule.dynamic != 0;
  const double candidate = made - taken, hysteresis = static_cast<double>(rule.hysteresis);
  const bool halves = !finite && dynamic && (hysteresis == 1 || left == 1);
  const bool refused = !finite && (rule.skips == 0 || (halves && scale == rule.least));
  decided[0] = control[0];
  decided[1] = control[1];
  decided[2] = 0;
  decided[3] = candidate;
  if (follows != 0 && stopped != 0) return;
  stopped = refused || (candidate != 0 && candidate != 1) ? 1 : 0;
  if (stopped != 0) return;
  if (!finite) {
    if (halves) scale = scale / 2 > rule.least ? scale / 2 : rule.least;
    else if (dynamic) left -= 1;
    overflowed = seen;
  } else {
    decided[2] = 1;
    made += 1;
    const int64_t stable = static_cast<int64_t>(seen - overflowed) - 1;
    const bool grows = dynamic && stable > 0 && stable % rule.window == 0;
    if (grows) scale = 2 * scale < rule.most ? 2 * scale : rule.most;
    if (grows || (dynamic && rule.consecutive != 0)) left = hysteresis;
  }
  seen += 1;
}

}  // namespace deeptroupe
