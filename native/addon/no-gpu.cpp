// An addon that was built where nvcc was not found.
#include "../executor/group.h"
#include "gpu.h"

namespace deeptroupe {
namespace {
constexpr const char* reason =
    "gpu: kernels, expected an addon built with nvcc, got one built where it was not found; install the CUDA toolkit and "
    "run `npm run build:gpu`";
}

GpuReport report_gpus() {
  GpuReport report;
  report.reason = reason;
  return report;
}

std::unique_ptr<Device> make_gpu_device(int, const GpuOptions&) { throw MissingError(reason); }

void prepare_gpu_environment() {}

}  // namespace deeptroupe
