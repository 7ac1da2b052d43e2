// The pointwise non-linearities and their derivatives on one number, for the kernels that fuse them and for activation.cu.
// `kind` is the number of kernels/ops/activation.ts, the formulas are those of kernels/cpu/activation.h. Infinities and NaN
// pass through as the formulas say.
#pragma once

#include <type_traits>

#include "../abi/activation-kind.h"
#include "kernel.h"

namespace deeptroupe::gpu {

/// x / y to 2 ulp; zero where |y| is beyond 2^126.
__device__ inline float quotient(float x, float y) { return __fdividef(x, y); }

/// The smaller one; NaN stays NaN.
__device__ inline float at_most(float limit, float x) {
#if defined(__HIP__)
  return x > limit ? limit : x;
#else
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(limit));
  return y;
#endif
}

/// x between -limit and limit; NaN stays NaN.
__device__ inline float clamped(float x, float limit) { return x > limit ? limit : x < -limit ? -limit : x; }

/// The normal distribution's cumulative function and, in `density`, sqrt(2 pi) times its density, accurate in the left tail too.
/// With z = |x| / sqrt 2: erfc(z) = e^(-z^2) t Q(t), t = 1 / (1 + z / 2), Q a minimax fit of degree 9 on 0 <= z <= 10.
__device__ inline float normal_cdf(float x, float& density) {
  const float square = x * x;
  // x^2 = square + rest, so that a large exponent does not magnify the rounding of the square.
  const float rest = fmaf(x, x, -square);
  const float e = expf(square * -0.5f);
  density = e > 0.0f ? fmaf(e * -0.5f, rest, e) : e;
  const float t = quotient(1.0f, fmaf(fabsf(x), 0.35355339059327379f, 1.0f));
  float q = 0.01228343602269888f;
  q = fmaf(q, t, -0.12325246632099152f);
  q = fmaf(q, t, 0.4289235770702362f);
  q = fmaf(q, t, -0.6700165867805481f);
  q = fmaf(q, t, 0.42126986384391785f);
  q = fmaf(q, t, -0.0983155220746994f);
  q = fmaf(q, t, 0.22554121911525726f);
  q = fmaf(q, t, 0.23864495754241943f);
  q = fmaf(q, t, 0.2828570306301117f);
  q = fmaf(q, t, 0.2820644974708557f);
  const float tail = density * (0.5f * t * q);
  return x > 0.0f ? 1.0f - tail : tail;
}

/// 1 / (1 + e^-x), and its derivative, without cancellation at either end.
__device__ inline float sigmoid(float x, float& slope) {
  const float e = expf(-fabsf(x));
  const float right = quotient(1.0f, e + 1.0f);
  const float left = e * right;
  slope = left * right;
  return x > 0.0f ? right : left;
}

/// sqrt(8 / pi) (x + 0.044715 x^3), the logit of gelu_tanh's sigmoid: (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)).
inline constexpr double gelu_linear = 1.5957691216057308;
inline constexpr double gelu_cubic = 0.071354816272600248;

/// e^-u of that logit u, `square` being x^2.
__device__ inline float gelu_tanh_exponential(float x, float square) {
  constexpr double log2_e = 1.4426950408889634;
  return exp2_fast(-x * fmaf(square, static_cast<float>(gelu_cubic * log2_e), static_cast<float>(gelu_linear * log2_e)));
}

template <int kind>
__device__ inline float activate(float x) {
  static_assert(kind >= 0 && kind < activation_kind::count);
  if constexpr (kind == activation_kind::gelu_tanh) {
    return x * reciprocal_fast(1.0f + gelu_tanh_exponential(x, x * x));
  } else if constexpr (kind == activation_kind::gelu_erf) {
    float density;
    return x * normal_cdf(x, density);
  } else if constexpr (kind == activation_kind::relu) {
    return x < 0.0f ? 0.0f : x;
  } else if constexpr (kind == activation_kind::silu) {
    return quotient(x, 1.0f + expf(-x));
  } else {
    return tanhf(x);
  }
}

/// f'(x).
template <int kind>
__device__ inline float activate_gradient(float x) {
  static_assert(kind >= 0 && kind < activation_kind::count);
  if constexpr (kind == activation_kind::gelu_tanh) {
    // Of |x|: the sigmoid s, 1 - s without cancellation, and s (1 - s) |x|. Beyond 16 the derivative is 0 or 1; the cut keeps powers finite.
    const float size = at_most(16.0f, fabsf(x)), square = size * size;
    const float e = gelu_tanh_exponential(size, square);
    const float right = reciprocal_fast(1.0f + e), left = e * right;
    const float rest = fmaf(square, static_cast<float>(3 * gelu_cubic), static_cast<float>(gelu_linear));
    return fmaf(copysignf(left * right * size, x), rest, x > 0.0f ? right : left);
  } else if constexpr (kind == activation_kind::gelu_erf) {
    const float cut = clamped(x, 16.0f);
    float density;
    const float cdf = normal_cdf(cut, density);
    return fmaf(cut * 0.3989422804014327f, density, cdf);
  } else if constexpr (kind == activation_kind::relu) {
    return x > 0.0f ? 1.0f : x != x ? x : 0.0f;
  } else if constexpr (kind == activation_kind::silu) {
    const float cut = clamped(x, 104.0f);
    float slope;
    const float y = sigmoid(cut, slope);
    return fmaf(slope, cut, y);
  } else {
    // With e = e^(2|x|) - 1: 1 - tanh^2 = 4 (e + 1) / (e + 2)^2.
    const float e = expm1f(2.0f * fabsf(clamped(x, 21.0f)));
    const float inverse = quotient(1.0f, e + 2.0f);
    return 4.0f * ((e + 1.0f) * inverse) * inverse;
  }
}

/// Calls body(std::integral_constant<int, kind>) for the kind that an attribute holds.
template <class F>
void with_kind(const char* op, int64_t kind, F&& body) {
  switch (kind) {
    case 0: return body(std::integral_constant<int, 0>{});
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    default:
      throw KernelError(std::string(op) + ": kind, expected 0 to " + std::to_string(activation_kind::count - 1) + ", got " +
                        std::to_string(kind));
  }
}

}  // namespace deeptroupe::gpu
