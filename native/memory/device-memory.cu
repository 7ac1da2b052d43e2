// One cudaMalloc per rank, and mappings of the host's memory that are registered once.
#include "device-memory.h"

#include <algorithm>
#include <cstdio>
#include <new>
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

DeviceMemory::DeviceMemory(int device, int rank, const ArenaBytes& bytes, uint32_t host_arenas, size_t extra_bytes)
    : device_(device), rank_(rank), host_arenas_(host_arenas) {
  const auto take = [&](size_t count) {
    const size_t offset = total_;
    total_ += (count + border - 1) / border * border;
    return offset;
  };
  for (uint32_t arena = 0; arena < abi::arena_count; ++arena) offsets_[arena] = take(on_host(arena) ? 0 : bytes[arena]);
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

std::byte* DeviceMemory::reserve_host(uint32_t arena, size_t bytes, Pool& pool) {
  constexpr size_t page = 4096, stretch = size_t{4} << 20;
  const auto refuse = [&](const std::string& got) {
    return MemoryError("host: arena " + std::string(abi::arena_names[arena]) + " of rank " + std::to_string(rank_) + ", expected " +
                       gibibytes(bytes) + " of pinned memory, got " + got);
  };
  try {
    host_[arena].reserve(bytes);
  } catch (const std::bad_alloc&) {
    throw refuse("no address space for it");
  }
  std::byte* const base = host_[arena].base();
  pool.each(static_cast<int64_t>((bytes + stretch - 1) / stretch), [&](int64_t part, int) {
    const size_t begin = part * stretch, end = std::min(bytes, begin + stretch);
    for (size_t at = begin; at < end; at += page) *const_cast<volatile std::byte*>(base + at) = std::byte{0};
  });
  if (bytes == 0) return base;
  if (const Status status = cudaHostRegister(base, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped); status != success) {
    cudaGetLastError();
    host_[arena].release();
    throw refuse(cudaGetErrorString(status));
  }
  pinned_ |= 1u << arena;
  return base;
}

DeviceMemory::~DeviceMemory() {
  std::thread([this] {
    if (cudaSetDevice(device_) != success) return;
    for (uint32_t arena = 0; arena < abi::arena_count; ++arena)
      if (pinned_ >> arena & 1) cudaHostUnregister(host_[arena].base());
    cudaFree(block_);
  }).join();
  Arena::count(-static_cast<ptrdiff_t>(total_));
}

}  // namespace deeptroupe::gpu
