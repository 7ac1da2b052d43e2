// Philox4x32-10 on vectors of counters: the words of the scalar form in kernels/abi/random.h; known answers are in the tests.
#pragma once

#include "../abi/random.h"
#include "isa.h"

namespace deeptroupe::DT_ISA {

namespace philox {
using namespace deeptroupe::philox;
/// 32-bit numbers in the low halves of 64-bit lanes; what the high halves hold does not matter.
typedef uint64_t lanes __attribute__((vector_size(4 * VL)));

/// 64-bit products of the low halves.
DT_INLINE lanes multiply(lanes a, uint32_t b) {
#if defined(__AVX512F__)
  return (lanes)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
  return (lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (lanes)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xffffffff) * b;
#endif
}
}  // namespace philox

/// The words of counters (counter[0], counter[1], counter[2], counter[3] + i), i = 0 to VL - 1, side by side: 4 * VL words in four vectors.
DT_INLINE void philox4x32_vector(const uint32_t counter[4], const uint32_t key[2], vu out[4]) {
  using philox::lanes;
  constexpr int blocks = VL / 4;
  // Which counter each lane takes, so that unpacking within 128-bit blocks leaves the words in order.
  lanes offset;
  for (int i = 0; i < blocks; ++i) offset[2 * i] = i, offset[2 * i + 1] = blocks + i;
  lanes c0[2], c1[2], c2[2], c3[2];
  for (int half = 0; half < 2; ++half) {
    c0[half] = lanes{} + counter[0];
    c1[half] = lanes{} + counter[1];
    c2[half] = lanes{} + counter[2];
    c3[half] = offset + (uint64_t{counter[3]} + 2 * blocks * half);
  }
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < philox::rounds; ++round) {
    for (int half = 0; half < 2; ++half) {
      const lanes p0 = philox::multiply(c0[half], philox::multiplier0);
      const lanes p1 = philox::multiply(c2[half], philox::multiplier1);
      c0[half] = (p1 >> 32) ^ c1[half] ^ (lanes{} + k0);
      c1[half] = p1;
      c2[half] = (p0 >> 32) ^ c3[half] ^ (lanes{} + k1);
      c3[half] = p0;
    }
    k0 += philox::weyl0;
    k1 += philox::weyl1;
  }
  lanes even, odd;
  for (int i = 0; i < blocks; ++i) {
    even[2 * i] = 2 * i, even[2 * i + 1] = 2 * blocks + 2 * i;
    odd[2 * i] = 2 * i + 1, odd[2 * i + 1] = 2 * blocks + 2 * i + 1;
  }
  for (int half = 0; half < 2; ++half) {
    const lanes low = (c0[half] & 0xffffffff) | (c1[half] << 32);
    const lanes high = (c2[half] & 0xffffffff) | (c3[half] << 32);
    // 2 * blocks lanes each: index 2 * blocks and up takes from `high`.
    const lanes first = __builtin_shuffle(low, high, even);
    const lanes second = __builtin_shuffle(low, high, odd);
    out[2 * half] = (vu)first;
    out[2 * half + 1] = (vu)second;
  }
}

}  // namespace deeptroupe::DT_ISA
