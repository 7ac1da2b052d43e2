// Vectors of the instruction set that this translation unit is compiled for. CMake compiles each kernel source three times with
// DT_ISA = avx512 (-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma), avx2 (-mavx2 -mfma -mf16c) and portable (x86-64 baseline):
// the same source, on GCC's vector extensions, with 16, 8 and 4 floats per vector. Bits may differ between the levels, never within.
// All are compiled with -ffp-contract=off: a fused multiply-add happens only where `fma` is written.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

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

#define DT_INLINE inline __attribute__((always_inline))

DT_INLINE vf splat(float x) { return vf{} + x; }
DT_INLINE vi splat_i(int32_t x) { return vi{} + x; }
DT_INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
DT_INLINE void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }

/// The first n floats at p, zero beyond; 0 <= n <= VL. Touches no memory beyond p[n - 1].
DT_INLINE vf load_part(const float* p, int n) {
  if (n >= VL) return load(p);
  float lanes[VL] = {};
  std::memcpy(lanes, p, sizeof(float) * n);
  return load(lanes);
}
DT_INLINE void store_part(float* p, vf v, int n) {
  if (n >= VL) return store(p, v);
  float lanes[VL];
  store(lanes, v);
  std::memcpy(p, lanes, sizeof(float) * n);
}

/// a * b + c, rounded once on every level.
DT_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  vf r;
  for (int i = 0; i < VL; ++i) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return r;
#endif
}
DT_INLINE vf max(vf a, vf b) { return a > b ? a : b; }
DT_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
DT_INLINE vf select(vi mask, vf a, vf b) { return mask ? a : b; }
DT_INLINE vf abs(vf a) { return (vf)((vi)a & 0x7fffffff); }

/// Lanes added pairwise: the same tree on every call.
DT_INLINE float sum(vf v) {
  float lanes[VL];
  store(lanes, v);
  for (int width = VL / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
DT_INLINE float hmax(vf v) {
  float lanes[VL];
  store(lanes, v);
  for (int width = VL / 2; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

DT_INLINE vf round_nearest(vf x) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23
  return (x + magic) - magic;
}

/// e^x to 2 ulp by Cody and Waite's reduction and a polynomial of degree 6; 0 below -104, infinity above 88.73.
DT_INLINE vf exp(vf x) {
  const vf clamped = max(min(x, splat(88.8f)), splat(-104.0f));
  const vf n = round_nearest(clamped * splat(1.44269504088896341f));
  vf r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  // 2^n in two factors, so that both ends of the range are reached without overflow of the exponent.
  const vi k = __builtin_convertvector(n, vi);
  const vi half = k >> 1;
  const vf a = (vf)((half + 127) << 23);
  const vf b = (vf)((k - half + 127) << 23);
  const vf y = p * a * b;
  return select(x != x, x, y);
}

/// Families register their kernels here; called once per instruction set by table.cpp.
void add_activation(KernelTable&);
void add_attention(KernelTable&);
void add_cross_entropy(KernelTable&);
void add_dropout(KernelTable&);
void add_elementwise(KernelTable&);
void add_embedding(KernelTable&);
void add_fill(KernelTable&);
void add_linear(KernelTable&);
void add_norm(KernelTable&);
void add_optimizer(KernelTable&);
void add_softmax(KernelTable&);

}  // namespace deeptroupe::DT_ISA
