// What the programs of this folder need of a device: its properties, memory with random numbers, and times between events.
#pragma once

#include <algorithm>
#include <cstdio>
#include <vector>

#include "../../kernels/gpu/kernel.h"

namespace deeptroupe::gpu {

inline Properties properties_of(int ordinal) {
  cudaDeviceProp found{};
  check(cudaSetDevice(ordinal), "cudaSetDevice");
  check(cudaGetDeviceProperties(&found, ordinal), "cudaGetDeviceProperties");
  Properties properties;
  properties.major = found.major, properties.minor = found.minor;
  properties.multiprocessors = found.multiProcessorCount;
  properties.shared_bytes = found.sharedMemPerBlockOptin;
  properties.l2_bytes = static_cast<size_t>(found.l2CacheSize);
  properties.name = found.name;
  return properties;
}

/// Numbers of mean 0, close to normal, from their index alone.
template <class T>
__global__ void fill_random(T* data, int64_t count, float deviation, uint32_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    float sum = 0;
    uint64_t state = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15 + seed;
    for (int draw = 0; draw < 4; ++draw) {
      state ^= state >> 31, state *= 0xbf58476d1ce4e5b9, state ^= state >> 27;
      sum += static_cast<float>(state >> 40) * 0x1p-24f - 0.5f;
    }
    data[i] = from_float<T>(sum * 1.7320508f * deviation);
  }
}

/// Device memory that is freed all together.
class Memory {
 public:
  ~Memory() {
    for (void* block : blocks_) cudaFree(block);
  }
  void* take(size_t bytes) {
    void* block = nullptr;
    check(cudaMalloc(&block, std::max<size_t>(bytes, 256)), "cudaMalloc");
    blocks_.push_back(block);
    return block;
  }
  /// A tensor of random numbers.
  Tensor random(DType dtype, std::initializer_list<int64_t> dims, float deviation = 1.0f) {
    Tensor tensor{nullptr, dtype, static_cast<uint32_t>(dims.size()), {}};
    std::copy(dims.begin(), dims.end(), tensor.dims);
    tensor.data = take(tensor.elements() * abi::dtype_bytes[static_cast<uint32_t>(dtype)]);
    with_float(dtype, [&]<class T>(T) {
      launch(fill_random<T>, dim3(1024), dim3(256), 0, nullptr, tensor.as<T>(), tensor.elements(), deviation, ++seed_);
    });
    return tensor;
  }
  /// A tensor of 4-byte integers, copied from the host.
  Tensor integers(const std::vector<int32_t>& values) {
    Tensor tensor{take(values.size() * 4), DType::i32, 1, {static_cast<int64_t>(values.size())}};
    check(cudaMemcpy(tensor.data, values.data(), values.size() * 4, cudaMemcpyHostToDevice), "cudaMemcpy");
    return tensor;
  }

 private:
  std::vector<void*> blocks_;
  uint32_t seed_ = 0;
};

template <class T>
std::vector<T> copied(const void* data, size_t count) {
  std::vector<T> host(count);
  check(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return host;
}

/// Element i of an array of floats on the host.
inline double as_double(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(data)[i];
    case DType::bf16: return __bfloat162float(static_cast<const bf16*>(data)[i]);
    default: return __half2float(static_cast<const f16*>(data)[i]);
  }
}

/// Median milliseconds of one call of `enqueue` on the default stream, over rounds of several.
template <class F>
double median_milliseconds(F&& enqueue, int rounds = 9) {
  cudaEvent_t start = nullptr, end = nullptr;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  const auto timed = [&](int repeat) {
    check(cudaEventRecord(start), "cudaEventRecord");
    for (int i = 0; i < repeat; ++i) enqueue();
    check(cudaEventRecord(end), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a timed call");
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, start, end), "cudaEventElapsedTime");
    return static_cast<double>(elapsed) / repeat;
  };
  timed(1);
  const int repeat = static_cast<int>(std::clamp(4.0 / std::max(timed(2), 1e-3), 1.0, 100.0));
  std::vector<double> times;
  for (int round = 0; round < rounds; ++round) times.push_back(timed(repeat));
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return times[static_cast<size_t>(rounds / 2)];
}

}  // namespace deeptroupe::gpu
