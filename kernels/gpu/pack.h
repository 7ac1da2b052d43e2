// Neighbouring elements in registers: up to 16 bytes are read and written by one access; arithmetic is on floats.
#pragma once

#include <cstring>
#include <type_traits>

#include "gpu.h"

namespace deeptroupe::gpu {

template <int bytes>
struct WordOf;
template <>
struct WordOf<1> {
  using type = uint8_t;
};
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};
/// `bytes` bytes, read or written at once.
template <int bytes>
using Word = typename WordOf<bytes>::type;

/// Elements of T in 16 bytes.
template <class T>
inline constexpr int per_pack = 16 / sizeof(T);

/// The N elements at p, a multiple of their size.
template <int N, class T>
__device__ inline Pack<T, N> load_pack(const T* p) {
  using W = Word<N * sizeof(T)>;
  const W word = *reinterpret_cast<const W*>(p);
  Pack<T, N> pack;
  memcpy(&pack, &word, sizeof word);
  return pack;
}

template <int N, class T>
__device__ inline void store_pack(T* p, const Pack<T, N>& pack) {
  using W = Word<N * sizeof(T)>;
  W word;
  memcpy(&word, &pack, sizeof word);
  *reinterpret_cast<W*>(p) = word;
}

template <int N, class T>
__device__ inline void widen(const Pack<T, N>& pack, float (&values)[N]) {
  if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
    // One operation each: a bf16 is the upper half of a float.
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t pair;
      memcpy(&pair, &pack.at[n], sizeof pair);
      values[n] = __uint_as_float(pair << 16);
      values[n + 1] = __uint_as_float(pair & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] = to_float(pack.at[n]);
  }
}

#if !defined(__HIP__)
__device__ inline void narrow_pair(float a, float b, bf16& to_a, bf16& to_b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  to_a = pair.x, to_b = pair.y;
}
__device__ inline void narrow_pair(float a, float b, f16& to_a, f16& to_b) {
  const __half2 pair = __floats2half2_rn(a, b);
  to_a = pair.x, to_b = pair.y;
}
#endif

/// Rounds each value once, to nearest even.
template <class T, int N>
__device__ inline Pack<T, N> narrow(const float (&values)[N]) {
  Pack<T, N> pack;
#if !defined(__HIP__)
  constexpr bool pairs = sizeof(T) == 2 && N % 2 == 0;
#else
  constexpr bool pairs = false;
#endif
  if constexpr (pairs) {
#pragma unroll
    for (int n = 0; n < N; n += 2) narrow_pair(values[n], values[n + 1], pack.at[n], pack.at[n + 1]);
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) pack.at[n] = from_float<T>(values[n]);
  }
  return pack;
}

/// The N elements at p, as floats: one access of at most 16 bytes, or where floats take more, several.
template <int N, class T>
__device__ inline void load_floats(const T* p, float (&values)[N]) {
  constexpr int step = N < per_pack<T> ? N : per_pack<T>;
#pragma unroll
  for (int n = 0; n < N; n += step) {
    float part[step];
    widen(load_pack<step>(p + n), part);
#pragma unroll
    for (int i = 0; i < step; ++i) values[n + i] = part[i];
  }
}

template <int N, class T>
__device__ inline void store_floats(T* p, const float (&values)[N]) {
  constexpr int step = N < per_pack<T> ? N : per_pack<T>;
#pragma unroll
  for (int n = 0; n < N; n += step) {
    float part[step];
#pragma unroll
    for (int i = 0; i < step; ++i) part[i] = values[n + i];
    store_pack(p + n, narrow<T>(part));
  }
}

}  // namespace deeptroupe::gpu
