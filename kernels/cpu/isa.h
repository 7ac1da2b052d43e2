// Vectors of the instruction set that this translation unit is compiled for. CMake compiles each kernel source four times with
// DT_ISA = avx512 (-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma), avx512_bf16 (avx512 and -mavx512bf16), avx2 (-mavx2 -mfma -mf16c) and portable (x86-64 baseline):
// the same source, on GCC's vector extensions, with 16, 16, 8 and 4 floats per vector. Bits may differ between the levels, never within.
// All are compiled with -ffp-contract=off: a fused multiply-add happens only where `fma` is written.
#pragma once

#if defined(__SSE2__)
#pragma GCC diagnostic push
// GCC 12 warns about its own _mm512_undefined_ps.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernel.h"

#ifndef DT_ISA
#define DT_ISA portable
#endif

namespace deeptroupe::DT_ISA {

#if defined(__AVX512F__)
inline constexpr int VL = 16;
#elif defined(__AVX2__)
inline constexpr int VL = 8;
#else
inline constexpr int VL = 4;
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
/// Half as many doubles, in one vector register.
typedef double vd __attribute__((vector_size(4 * VL)));
typedef float vf_unaligned __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(4 * VL), aligned(4), may_alias));

/// x in every lane. (x - 0 is x for every x, x + 0 is not: only this form compiles to a bare broadcast.)
DT_INLINE vf splat(float x) { return x - vf{}; }
DT_INLINE vi splat_i(int32_t x) { return vi{} + x; }
DT_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
DT_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }

/// The first n floats at p, zero beyond; 0 <= n <= VL. Touches no memory beyond p[n - 1].
DT_INLINE vf load_part(const float* p, int n) {
  if (n >= VL) return load(p);
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  float lanes[VL] = {};
  std::memcpy(lanes, p, sizeof(float) * n);
  return load(lanes);
#endif
}
/// The first n floats at p, `rest` in the other lanes.
DT_INLINE vf load_first(const float* p, int n, vf rest) {
  if (n >= VL) return load(p);
#if defined(__AVX512F__)
  return (vf)_mm512_mask_loadu_ps((__m512)rest, static_cast<__mmask16>((1u << n) - 1), p);
#else
  std::memcpy(&rest, p, sizeof(float) * n);
  return rest;
#endif
}
DT_INLINE void store_part(float* p, vf v, int n) {
  if (n >= VL) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
  float lanes[VL];
  store(lanes, v);
  std::memcpy(p, lanes, sizeof(float) * n);
#endif
}

/// How many of a vector's lanes `left` elements fill.
DT_INLINE int lanes_left(int64_t left) { return left < VL ? static_cast<int>(left) : VL; }

/// a * b + c, rounded once on every level.
DT_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__SSE2__)
  // The product is exact in float64. Rounding the sum to odd there keeps the second rounding, to float32, from going wrong
  // (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
  typedef int64_t vd_bits __attribute__((vector_size(4 * VL)));
  const auto half = [](__m128 a, __m128 b, __m128 c) {
    const vd product = (vd)_mm_cvtps_pd(a) * (vd)_mm_cvtps_pd(b), addend = (vd)_mm_cvtps_pd(c);
    const vd total = product + addend;
    const vd part = total - product;
    const vd error = (product - (total - part)) + (addend - part);
    const vd_bits inexact = ((error > 0) | (error < 0)) & (((vd_bits)total & 1) - 1);
    const vd_bits outward = (error > 0) ^ (total < 0);
    return _mm_cvtpd_ps((__m128d)((vd_bits)total + (inexact & ((outward & 2) - 1))));
  };
  const __m128 x = (__m128)a, y = (__m128)b, z = (__m128)c;
  return (vf)_mm_movelh_ps(half(x, y, z), half(_mm_movehl_ps(x, x), _mm_movehl_ps(y, y), _mm_movehl_ps(z, z)));
#else
  for (int i = 0; i < VL; ++i) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return a;
#endif
}
/// Where either is NaN: b.
DT_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
DT_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
DT_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
DT_INLINE vf abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
/// The square root, rounded once.
DT_INLINE vf sqrt(vf a) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)a);
#elif defined(__SSE2__)
  return (vf)_mm_sqrt_ps((__m128)a);
#else
  for (int i = 0; i < VL; ++i) a[i] = std::sqrt(a[i]);
  return a;
#endif
}

/// a * b + c for sums of products: fused where the instruction set can, two roundings on `portable`.
DT_INLINE vf mul_add(vf a, vf b, vf c) {
#if defined(__AVX2__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

template <int width, int... lane>
DT_INLINE vf rotate(vf v, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(v, v, ((lane + width) % VL)...);
}
/// Combines the lower and upper half of the lanes until one is left: the same tree on every call.
template <int width = VL / 2, class F>
DT_INLINE float reduce(vf v, F f) {
  if constexpr (width == 0) return v[0];
  else return reduce<width / 2>(f(v, rotate<width>(v, std::make_integer_sequence<int, VL>{})), f);
}
DT_INLINE float sum(vf v) {
  return reduce(v, [](vf a, vf b) { return a + b; });
}
DT_INLINE float hmax(vf v) {
  return reduce(v, [](vf a, vf b) { return max(a, b); });
}

DT_INLINE vf round_nearest(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23
  return (x + magic) - magic;
}

/// p * 2^n for p near 1 and whole n from -150 to 128, rounded once.
DT_INLINE vf scale_exponent(vf p, vf n) {
#if defined(__AVX512F__)
  return (vf)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  // 2^n in two factors, so that both ends of the range are reached without overflow of the exponent.
  const vi k = __builtin_convertvector(n, vi);
  const vi half = k >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((k - half + 127) << 23);
#endif
}

/// x = n ln 2 + r, by Cody and Waite.
DT_INLINE vf reduce_exponent(vf x, vf& r) {
  const vf n = round_nearest(x * splat(1.44269504088896341f));
  r = mul_add(n, splat(-0.693359375f), x);
  r = mul_add(n, splat(2.12194440e-4f), r);
  return n;
}

/// e^r - 1 for |r| <= ln 2 / 2 by a polynomial of degree 7.
DT_INLINE vf expm1_reduced(vf r) {
  vf p = splat(1.9875691500e-4f);
  p = mul_add(p, r, splat(1.3981999507e-3f));
  p = mul_add(p, r, splat(8.3334519073e-3f));
  p = mul_add(p, r, splat(4.1665795894e-2f));
  p = mul_add(p, r, splat(1.6666665459e-1f));
  p = mul_add(p, r, splat(5.0000001201e-1f));
  return mul_add(p, r * r, r);
}

/// e^x to 2 ulp; 0 below -104, infinity above 88.73, NaN of NaN.
DT_INLINE vf exp(vf x) {
  vf r;
  const vf n = reduce_exponent(max(splat(-104.0f), min(splat(88.8f), x)), r);
  return scale_exponent(expm1_reduced(r) + 1.0f, n);
}

/// Calls body(begin, end) for blocks of `block` items that cover [0, items), on the pool's threads; one block runs on the caller's.
/// Pick `block` by the data alone.
template <class F>
DT_INLINE void each_block(const Call& call, int64_t items, int64_t block, F&& body) {
  if (items <= block) {
    if (items > 0) body(int64_t{0}, items);
    return;
  }
  call.pool->each((items + block - 1) / block, [&](int64_t task, int) {
    const int64_t begin = task * block;
    body(begin, begin + block < items ? begin + block : items);
  });
}

/// Families register their kernels here; called once per instruction set by table.cpp.
void add_activation(KernelTable&);
void add_attention(KernelTable&);
void add_ceiling(KernelTable&);
void add_cross_entropy(KernelTable&);
void add_dropout(KernelTable&);
void add_elementwise(KernelTable&);
void add_embedding(KernelTable&);
void add_fill(KernelTable&);
void add_linear(KernelTable&);
void add_norm(KernelTable&);
void add_optimizer(KernelTable&);
void add_softmax(KernelTable&);
void add_sum(KernelTable&);

}  // namespace deeptroupe::DT_ISA
