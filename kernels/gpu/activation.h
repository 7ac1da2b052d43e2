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
inline constexpr float gelu_linear = 1.5957691216057308f;
inline constexpr float gelu_cubic = 0.071354816272600248f;

template <int kind>
__device__ inline float activate(float x) {
  static_assert(kind >= 0 && kind < activation_kind::count);
  if constexpr (kind == activation_kind::gelu_tanh) {
    return quotient(x, 1.0f + expf(-x * fmaf(x * x, gelu_cubic, gelu_linear)));
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
    // Beyond 16 the derivative is 0 or 1; the cut keeps the powers of x finite.
    const float cut = clamped(x, 16.0f);
    const float square = cut * cut;
    float slope;
    const float cdf = sigmoid(cut * fmaf(square, gelu_cubic, gelu_linear), slope);
    return fmaf(slope * cut, fmaf(square, 3.0f * gelu_cubic, gelu_linear), cdf);
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
