// The GPUs of this machine, and whether programs can run on them. Asking makes no context on a device: that comes with the first rank.
#include "gpu.h"

#include <thread>

#include "../../kernels/gpu/library.h"
#include "../collective/nccl.h"
#include "../executor/gpu-device.h"

namespace deeptroupe {
namespace {

using namespace gpu;

constexpr int toolkit = CUDART_VERSION / 1000;
/// The oldest driver that a toolkit's programs run on.
constexpr const char* oldest_driver = toolkit >= 13 ? "580" : "525";
constexpr int least_major = 8;

/// The version of a library from its number: 130100 is 13.1.0.
std::string dotted(size_t number) {
  return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." + std::to_string(number % 100);
}

/// The part of NVML that tells of drivers and memory; opened once, for that takes long.
class Management {
 public:
  static const Management& get() {
    static const Management* const opened = new Management;
    return *opened;
  }

  std::string driver() const {
    char version[96] = "";
    return works_ && driver_(version, sizeof version) == 0 ? version : "";
  }

  /// Free bytes of a GPU; all of them where that cannot be known.
  double free_bytes(int number, double all) const {
    char bus[32] = "";
    void* device = nullptr;
    struct {
      unsigned long long total, free, used;
    } memory{};
    const bool known = works_ && cudaDeviceGetPCIBusId(bus, sizeof bus, number) == success && handle_(bus, &device) == 0 &&
                       memory_(device, &memory) == 0;
    return known ? static_cast<double>(memory.free) : all;
  }

 private:
  Management() : library_("NVML", "DEEPTROUPE_NVML", {"libnvidia-ml.so.1"}) {
    if (!library_) return;
    try {
      library_.find(initialize_, "nvmlInit_v2");
      library_.find(driver_, "nvmlSystemGetDriverVersion");
      library_.find(handle_, "nvmlDeviceGetHandleByPciBusId_v2");
      library_.find(memory_, "nvmlDeviceGetMemoryInfo");
      works_ = initialize_() == 0;
    } catch (const Error&) {
      works_ = false;
    }
  }

  const Library library_;
  int (*initialize_)() = nullptr;
  int (*driver_)(char*, unsigned) = nullptr;
  int (*handle_)(const char*, void**) = nullptr;
  int (*memory_)(void*, void*) = nullptr;
  bool works_ = false;
};

std::string cublaslt_version() {
  const Library library("cublasLt", "DEEPTROUPE_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"});
  if (!library) return {};
  size_t (*version)() = nullptr;
  library.find(version, "cublasLtGetVersion");
  return dotted(version());
}

std::string driver_reason(const std::string& driver) {
  const std::string expected = std::string("gpu: driver, expected NVIDIA's of version ") + oldest_driver + " or newer";
  int supported = 0;
  if (cudaDriverGetVersion(&supported) != success || supported == 0) return expected + ", got none";
  if (supported / 1000 >= toolkit) return {};
  return expected + " (CUDA " + std::to_string(toolkit) + "), got " + (driver.empty() ? "one" : driver) + " (CUDA " +
         std::to_string(supported / 1000) + "." + std::to_string(supported % 1000 / 10) + ")";
}

void find_gpus(GpuReport& report) {
  const Management& management = Management::get();
  report.driver = management.driver();
  report.reason = driver_reason(report.driver);
  if (!report.reason.empty()) return;
  int count = 0;
  const Status status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (status == cudaErrorNoDevice || (status == success && count == 0)) {
    report.reason = "gpu: devices, expected at least one, got none";
    return;
  }
  check(status, "number of devices");
  bool usable = false;
  for (int number = 0; number < count; ++number) {
    cudaDeviceProp found;
    check(cudaGetDeviceProperties(&found, number), "properties of a device");
    const double all = static_cast<double>(found.totalGlobalMem);
    report.gpus.push_back({found.name, all, management.free_bytes(number, all),
                           std::to_string(found.major) + "." + std::to_string(found.minor), found.multiProcessorCount});
    usable = usable || found.major >= least_major;
  }
  if (!usable)
    report.reason = "gpu: compute capability, expected at least " + std::to_string(least_major) + ".0, got " +
                    report.gpus[0].compute + " (" + report.gpus[0].name + ")";
  report.cublaslt = cublaslt_version();
  report.linked = 1;
  for (std::vector<int> first{0}; wants_copies() && report.linked < count; ++report.linked) {
    first.push_back(report.linked);
    if (!Peers::reachable(first)) break;
  }
  if (nccl_missing().empty()) report.nccl = dotted(static_cast<size_t>(nccl_version()));
}

}  // namespace

GpuReport report_gpus() {
  GpuReport report;
  // JavaScript's threads make no CUDA calls.
  std::thread([&] {
    try {
      find_gpus(report);
    } catch (const std::exception& error) {
      report.reason = error.what();
    }
  }).join();
  return report;
}

std::unique_ptr<Device> make_gpu_device(int ranks, const GpuOptions& options) {
  const GpuReport report = report_gpus();
  if (!report.reason.empty()) throw MissingError(report.reason);
  if (static_cast<size_t>(ranks) > report.gpus.size())
    throw MissingError("device: ranks, expected at most one for each of the " + std::to_string(report.gpus.size()) +
                       " GPUs, got " + std::to_string(ranks));
  if (ranks > report.linked && report.nccl.empty()) throw MissingError("device: " + std::to_string(ranks) + " ranks: " + nccl_missing());
  return std::make_unique<GpuDevice>(ranks, options);
}

void prepare_gpu_environment() {
  // Kernels are loaded with the context: one that is loaded while a collective of another device waits may wait for it in turn.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  // NVLink multicast stays off, here and in every child.
  for (const char* name : {"TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS"}) setenv(name, "1", 1);
  setenv("NCCL_NVLS_ENABLE", "0", 1);
}

}  // namespace deeptroupe
