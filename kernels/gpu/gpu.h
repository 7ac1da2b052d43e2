// The few names that CUDA and HIP spell differently, the arithmetic of 16-bit numbers, and how a kernel is launched.
// Both are compiled without contraction: a fused multiply-add happens only where `fmaf` is written.
#pragma once

#if defined(__HIP__)
#include <hip/hip_fp16.h>
#include <hip/hip_runtime.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

/// Before a kernel's parameter that it indexes at run time: it is read where it lies.
#if defined(__HIP__)
#define DT_PARAMETER
#else
#define DT_PARAMETER __grid_constant__
#endif

namespace deeptroupe::gpu {

#if defined(__HIP__)
using Stream = hipStream_t;
using Status = hipError_t;
/// An element in memory; HIP's own type came later than the oldest release that these sources compile with.
struct bf16 {
  uint16_t bits;
};
inline constexpr Status success = hipSuccess;
inline const char* status_text(Status status) { return hipGetErrorString(status); }
inline Status last_status() { return hipGetLastError(); }
#else
using Stream = cudaStream_t;
using Status = cudaError_t;
using bf16 = __nv_bfloat16;
inline constexpr Status success = cudaSuccess;
inline const char* status_text(Status status) { return cudaGetErrorString(status); }
inline Status last_status() { return cudaGetLastError(); }
#endif
using f16 = __half;

/// Lanes that exchange values by shuffles: the width of a warp on NVIDIA; on AMD half or all of a wavefront.
inline constexpr int warp = 32;

/// The device, its driver or a library refused something.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(Status status, const char* what) {
  if (status != success) throw Error(std::string("gpu: ") + what + ", expected success, got " + status_text(status));
}

/// Launches and checks the launch. More than 48 KiB of `shared` need `allow_shared` once per kernel and device.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, Stream stream, A... arguments) {
  kernel<<<grid, block, shared, stream>>>(static_cast<P>(arguments)...);
  check(last_status(), "launch of a kernel");
}

inline void allow_shared(const void* kernel, size_t bytes) {
#if defined(__HIP__)
  (void)kernel, (void)bytes;
#else
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of a kernel");
#endif
}

/// Allows a kernel as much shared memory, once for each device.
template <auto KERNEL>
void allow_shared_once(size_t bytes) {
#if defined(__HIP__)
  (void)bytes;
#else
  static std::atomic<uint64_t> done{0};
  int device = 0;
  check(cudaGetDevice(&device), "number of the device");
  const uint64_t bit = uint64_t{1} << (device & 63);
  if (device < 64 && (done.load(std::memory_order_relaxed) & bit)) return;
  allow_shared(reinterpret_cast<const void*>(KERNEL), bytes);
  done.fetch_or(bit, std::memory_order_relaxed);
#endif
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(double x) { return static_cast<float>(x); }
__device__ inline float to_float(bf16 x) {
#if defined(__HIP__)
  return __uint_as_float(uint32_t{x.bits} << 16);
#else
  return __bfloat162float(x);
#endif
}
__device__ inline float to_float(f16 x) { return __half2float(x); }

/// Rounds once, to nearest even.
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline double from_float<double>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
#if defined(__HIP__)
  const uint32_t bits = __float_as_uint(x);
  return {static_cast<uint16_t>((x != x ? bits | 0x400000u : bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16)};
#else
  return __float2bfloat16(x);
#endif
}
template <>
__device__ inline f16 from_float<f16>(float x) {
  return __float2half(x);
}

/// 2^x to about 2 units in the last place, subnormal results as zero.
__device__ inline float exp2_fast(float x) {
#if defined(__HIP__)
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// 1 / x to 1 unit in the last place, subnormal results as zero.
__device__ inline float reciprocal_fast(float x) {
#if defined(__HIP__)
  return 1.0f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// `N` neighbours, loaded and stored at once: N * sizeof(T) is at most 16 and the address a multiple of it.
template <class T, int N>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

/// What the lanes of a warp wrote to shared memory is there for all of them.
__device__ inline void warp_sync() {
#if defined(__HIP__)
  __threadfence_block();
  __builtin_amdgcn_wave_barrier();
#else
  __syncwarp();
#endif
}

template <class T>
__device__ inline T shuffle_xor(T value, int lane_mask) {
#if defined(__HIP__)
  return __shfl_xor(value, lane_mask, warp);
#else
  return __shfl_xor_sync(0xffffffffu, value, lane_mask, warp);
#endif
}

/// The value of lane `lane` of the warp.
template <class T>
__device__ inline T shuffle(T value, int lane) {
#if defined(__HIP__)
  return __shfl(value, lane, warp);
#else
  return __shfl_sync(0xffffffffu, value, lane, warp);
#endif
}

/// In every lane the sum of all lanes of the warp, always added in the same order.
template <class T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (int mask = warp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

template <class T>
__device__ inline T warp_max(T value) {
#pragma unroll
  for (int mask = warp / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask);
    value = value > other ? value : other;
  }
  return value;
}

}  // namespace deeptroupe::gpu
