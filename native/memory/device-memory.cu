// One cudaMalloc per rank.
#include "device-memory.h"

#include <cstdio>
#include <thread>

#include "cuda.h"

namespace deeptroupe::gpu {
namespace {

constexpr size_t border = 256;

std::string gibibytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GiB", static_cast<double>(bytes) / (size_t{1} << 30));
  return text;
}

}  // namespace

DeviceMemory::DeviceMemory(int device, int rank, const ArenaBytes& bytes, size_t extra_bytes) : device_(device) {
  const auto take = [&](size_t count) {
    const size_t offset = total_;
    total_ += (count + border - 1) / border * border;
    return offset;
  };
  for (uint32_t arena = 0; arena < abi::arena_count; ++arena) offsets_[arena] = take(bytes[arena]);
  offsets_[abi::arena_count] = take(extra_bytes);
  void* block = nullptr;
  const Status status = cudaMalloc(&block, total_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, all = 0;
    check(cudaMemGetInfo(&free, &all), "free memory");
    throw MemoryError("device: memory of rank " + std::to_string(rank) + ", expected a plan within the " + gibibytes(free) +
                      " that GPU " + std::to_string(device) + " has free, got " + gibibytes(total_));
  }
  check(status, "memory of the rank");
  block_ = static_cast<std::byte*>(block);
  Arena::count(static_cast<ptrdiff_t>(total_));
}

DeviceMemory::~DeviceMemory() {
  std::thread([this] {
    if (cudaSetDevice(device_) == success) cudaFree(block_);
  }).join();
  Arena::count(-static_cast<ptrdiff_t>(total_));
}

}  // namespace deeptroupe::gpu
