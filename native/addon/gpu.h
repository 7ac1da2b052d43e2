// What the addon knows of GPUs. gpu.cu does it; an addon built without nvcc has no-gpu.cpp in its place.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../executor/device.h"

namespace deeptroupe {

struct GpuReport {
  struct Gpu {
    std::string name;
    double memory_bytes, free_bytes;
    /// Compute capability, as `9.0`.
    std::string compute;
    int multiprocessors;
  };
  std::vector<Gpu> gpus;
  /// Versions; empty where there is none.
  std::string driver, cublaslt, nccl;
  /// So many ranks, on the first GPUs, copy from each other's memory; more need NCCL.
  int linked = 0;
  /// Why no program can run on a GPU; empty where it can.
  std::string reason;
};

GpuReport report_gpus();

/// How programs are run.
struct GpuOptions {
  /// f32 operands of products may be rounded to 10 bits of mantissa.
  bool tf32 = false;
  /// GELU is left to the library of products.
  bool gelu_epilogues = false;
  /// Bit a: arena a lies in pinned memory of the host, where `host_kernels` work on it.
  uint32_t host_arenas = 0;
  const KernelTable* host_kernels = nullptr;
  /// The stored table of how products are computed (kernels/gpu/choices.h).
  std::string choices;
};

/// Throws MissingError where no GPU can be used, or fewer than `ranks`, or a library that so many need.
std::unique_ptr<Device> make_gpu_device(int ranks, const GpuOptions& options);

/// Sets what must stand in the environment before the first use of a GPU, for this process and those that it starts.
void prepare_gpu_environment();

}  // namespace deeptroupe
