// Kernels that treat every element alike. A thread holds several packs of 16 bytes, all loaded before the first is stored, so that
// memory stays busy; an output may lie on an operand of the same dtype.
#pragma once

#include "operands.h"
#include "pack.h"

namespace deeptroupe::gpu {

inline constexpr int each_threads = 256;

/// n / size and n % size, in 32 bits where they fit.
__device__ inline int64_t quotient_of(int64_t n, int64_t size) {
  return ((n | size) >> 32) == 0 ? static_cast<int64_t>(static_cast<uint32_t>(n) / static_cast<uint32_t>(size)) : n / size;
}
__device__ inline int64_t remainder_of(int64_t n, int64_t size) { return n - quotient_of(n, size) * size; }

/// What a body has that reads one operand.
template <class T>
struct Unary {
  static constexpr int held = 3;
  const T* x;

  template <int N>
  using Held = Pack<T, N>;

  template <int N>
  __device__ void load(int64_t at, Pack<T, N>& pack) const {
    pack = load_pack<N>(x + at);
  }
};

/// `body.load(at, held)` and then `body.store(at, held)` of elements at to at + N, N of them at once; Body::held packs a thread.
template <int N, class Body>
__global__ __launch_bounds__(each_threads) void each_kernel(const Body body, const int64_t count) {
  constexpr int H = Body::held;
  typename Body::template Held<N> held[H];
  const int64_t packs = count / N, first = int64_t{blockIdx.x} * H * each_threads + threadIdx.x;
#pragma unroll
  for (int h = 0; h < H; ++h)
    if (first + h * each_threads < packs) body.load((first + h * each_threads) * N, held[h]);
#pragma unroll
  for (int h = 0; h < H; ++h)
    if (first + h * each_threads < packs) body.store((first + h * each_threads) * N, held[h]);
  if constexpr (N > 1) {
    if (blockIdx.x != 0 || packs * N + threadIdx.x >= count) return;
    typename Body::template Held<1> rest;
    body.load(packs * N + threadIdx.x, rest);
    body.store(packs * N + threadIdx.x, rest);
  }
}

/// Enqueues body over `count` elements, N at once where `packed` says that addresses and periods allow it.
template <int N, class Body>
void each(const char* op, const Call& call, int64_t count, bool packed, const Body& body) {
  if (count == 0) return;
  constexpr int64_t share = int64_t{each_threads} * Body::held;
  if (packed && count >= N) launch(each_kernel<N, Body>, grid_of(op, blocks_of(count / N, share)), each_threads, 0, call.stream, body, count);
  else launch(each_kernel<1, Body>, grid_of(op, blocks_of(count, share)), each_threads, 0, call.stream, body, count);
}

}  // namespace deeptroupe::gpu
