// Functions of the driver, asked of it by name: nothing links to its library.
#pragma once

#include <cuda.h>

#include "gpu.h"

namespace deeptroupe::gpu {

/// The driver's function of that name as of CUDA 12; null where it has none.
template <class F>
F* driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const Status status = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
  if (status == success && result == cudaDriverEntryPointSuccess) return reinterpret_cast<F*>(found);
  last_status();
  return nullptr;
}

}  // namespace deeptroupe::gpu
