// Vectors of bf16 and f16 to and from f32, rounding to nearest even: bit-equal on every instruction set. NaN stays NaN (quiet).
#pragma once

#include "isa.h"

namespace deeptroupe::DT_ISA {

/// VL values of 16 bits.
typedef uint16_t vh __attribute__((vector_size(2 * VL)));

DT_INLINE vh load_half(const uint16_t* p, int n) {
  vh v{};
  std::memcpy(&v, p, n >= VL ? sizeof v : sizeof(uint16_t) * n);
  return v;
}
DT_INLINE void store_half(uint16_t* p, vh v, int n) { std::memcpy(p, &v, n >= VL ? sizeof v : sizeof(uint16_t) * n); }

DT_INLINE vf from_bf16(vh h) { return (vf)(__builtin_convertvector(h, vu) << 16); }

DT_INLINE vh to_bf16(vf x) {
  const vu bits = (vu)x;
  const vu rounded = bits + (0x7fffu + ((bits >> 16) & 1u));
  return __builtin_convertvector((x != x ? (bits | 0x400000u) : rounded) >> 16, vh);
}

DT_INLINE vf from_f16(vh h) {
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps((__m128i)h);
#else
  const vu wide = __builtin_convertvector(h, vu), sign = (wide & 0x8000u) << 16, magnitude = wide & 0x7fffu;
  // Subnormals are whole multiples of 2^-24; other numbers move their exponent's bias from 15 to 127.
  const vf small = __builtin_convertvector((vi)magnitude, vf) * splat(0x1p-24f);
  const vu quiet = magnitude > 0x7c00u ? vu{} + 0x400000u : vu{};
  const vu large = (magnitude << 13) + (magnitude >= 0x7c00u ? vu{} + (224u << 23) : vu{} + (112u << 23));
  return (vf)((magnitude < 0x400u ? (vu)small : (large | quiet)) | sign);
#endif
}

DT_INLINE vh to_f16(vf x) {
#if defined(__AVX512F__)
  return (vh)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
  return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#else
  const vu bits = (vu)x, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  // Below 2^-14 an addition of 0.5 rounds to multiples of 2^-24; above, the mantissa's low 13 bits round away.
  const vu small = (vu)((vf)magnitude + splat(0.5f)) - 0x3f000000u;
  const vu normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const vu finite = magnitude < (113u << 23) ? small : magnitude >= 0x477ff000u ? vu{} + 0x7c00u : normal;
  const vu nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  return __builtin_convertvector((magnitude > 0x7f800000u ? nan : finite) | sign, vh);
#endif
}

}  // namespace deeptroupe::DT_ISA
