// The 16-bit floats: vectors of bf16 and f16 to and from f32, rounding to nearest even, bit-equal on every instruction set; NaN stays NaN
// (quiet). Memory of T is read and written with the same names as f32's: load, load_part, load_first, store_part.
#pragma once

#include <type_traits>

#include "isa.h"

namespace deeptroupe::DT_ISA {

/// An element in memory; its bits.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
template <class T>
inline constexpr bool is_half = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;

/// VL values of 16 bits.
typedef uint16_t vh __attribute__((vector_size(2 * VL)));

/// The first n of them at p, zero beyond; 0 <= n <= VL.
DT_INLINE vh load_half(const void* p, int n) {
  vh v{};
  if (n >= VL) {
    std::memcpy(&v, p, sizeof v);
    return v;
  }
#if defined(__AVX512F__)
  return (vh)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
#else
  std::memcpy(&v, p, sizeof(uint16_t) * n);
  return v;
#endif
}
DT_INLINE void store_half(void* p, vh v, int n) {
  if (n >= VL) {
    std::memcpy(p, &v, sizeof v);
    return;
  }
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)v);
#else
  std::memcpy(p, &v, sizeof(uint16_t) * n);
#endif
}

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

DT_INLINE vf widen(vh h, bf16) { return from_bf16(h); }
DT_INLINE vf widen(vh h, f16) { return from_f16(h); }
DT_INLINE vh narrow(vf x, bf16) { return to_bf16(x); }
DT_INLINE vh narrow(vf x, f16) { return to_f16(x); }

template <class T>
  requires is_half<T>
DT_INLINE vf load_part(const T* p, int n) {
  return widen(load_half(p, n), T{});
}
template <class T>
  requires is_half<T>
DT_INLINE vf load(const T* p) {
  return widen(load_half(p, VL), T{});
}
template <int... lane>
DT_INLINE vi lane_numbers(std::integer_sequence<int, lane...>) {
  return vi{lane...};
}
/// Lanes below n.
DT_INLINE vi first_lanes(int64_t n) {
  return lane_numbers(std::make_integer_sequence<int, VL>{}) < splat_i(static_cast<int32_t>(n));
}
template <class T>
  requires is_half<T>
DT_INLINE vf load_first(const T* p, int n, vf rest) {
  return n >= VL ? load(p) : select(first_lanes(n), load_part(p, n), rest);
}
template <class T>
  requires is_half<T>
DT_INLINE void store_part(T* p, vf v, int n) {
  store_half(p, narrow(v, T{}), n);
}
template <class T>
  requires is_half<T>
DT_INLINE void store(T* p, vf v) {
  store_half(p, narrow(v, T{}), VL);
}

/// One element, exactly.
DT_INLINE float widen_one(float x) { return x; }
template <class T>
  requires is_half<T>
DT_INLINE float widen_one(T x) {
  return widen(vh{} + x.bits, T{})[0];
}
/// The float that memory of T keeps.
template <class T>
DT_INLINE vf round_to(vf x) {
  if constexpr (is_half<T>) return widen(narrow(x, T{}), T{});
  else return x;
}
template <class T>
DT_INLINE void store_one(T* p, float x) {
  if constexpr (is_half<T>) *p = {static_cast<uint16_t>(narrow(splat(x), T{})[0])};
  else *p = x;
}

}  // namespace deeptroupe::DT_ISA
