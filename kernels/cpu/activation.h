// The pointwise non-linearities and their derivatives on vectors, for the kernels that fuse them and for activation.cpp.
// `kind` is the number of kernels/ops/activation.ts. Infinities and NaN pass through as the formulas say.
#pragma once

#include <type_traits>

#include "../abi/activation-kind.h"
#include "check.h"
#include "isa.h"

namespace deeptroupe::DT_ISA {

/// e^(2|x|) - 1 to 2 ulp, |x| cut at 43: (e - 1) / (e + 1) and 4 e / (e + 1)^2 are then exact to rounding for every x.
DT_INLINE vf expm1_twice_abs(vf x) {
  vf r;
  const vf n = reduce_exponent(min(splat(43.0f), abs(x)) * splat(2.0f), r);
  const vf power = scale_exponent(splat(1.0f), n);
  return mul_add(expm1_reduced(r), power, power - 1.0f);
}

/// The normal distribution's cumulative function and, in `density`, sqrt(2 pi) times its density, to 10 ulp also in the left tail.
/// With z = |x| / sqrt 2: erfc(z) = e^(-z^2) t Q(t), t = 1 / (1 + z / 2), Q a minimax fit of degree 9 on 0 <= z <= 10.
DT_INLINE vf normal_cdf(vf x, vf& density) {
  const vf square = x * x;
  // x^2 = square + rest, so that a large exponent does not magnify the rounding of the square.
  const vf rest = fma(x, x, -square);
  const vf e = exp(square * splat(-0.5f));
  density = select(e > splat(0.0f), mul_add(e * splat(-0.5f), rest, e), e);
  const vf t = splat(1.0f) / mul_add(abs(x), splat(0.35355339059327379f), splat(1.0f));
  vf q = splat(0.01228343602269888f);
  q = mul_add(q, t, splat(-0.12325246632099152f));
  q = mul_add(q, t, splat(0.4289235770702362f));
  q = mul_add(q, t, splat(-0.6700165867805481f));
  q = mul_add(q, t, splat(0.42126986384391785f));
  q = mul_add(q, t, splat(-0.0983155220746994f));
  q = mul_add(q, t, splat(0.22554121911525726f));
  q = mul_add(q, t, splat(0.23864495754241943f));
  q = mul_add(q, t, splat(0.2828570306301117f));
  q = mul_add(q, t, splat(0.2820644974708557f));
  const vf tail = density * (splat(0.5f) * t * q);
  return select(x > splat(0.0f), splat(1.0f) - tail, tail);
}

/// 1 / (1 + e^-x), and its derivative, without cancellation at either end.
DT_INLINE vf sigmoid(vf x, vf& slope) {
  const vf e = exp(-abs(x));
  const vf right = splat(1.0f) / (e + 1.0f);
  const vf left = e * right;
  slope = left * right;
  return select(x > splat(0.0f), right, left);
}

/// sqrt(8 / pi) (x + 0.044715 x^3), the logit of gelu_tanh's sigmoid: (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u)).
inline constexpr float gelu_linear = 1.5957691216057308f;
inline constexpr float gelu_cubic = 0.071354816272600248f;

template <int kind>
DT_INLINE vf activate(vf x) {
  static_assert(kind >= 0 && kind < activation_kind::count);
  const vf one = splat(1.0f);
  if constexpr (kind == activation_kind::gelu_tanh) {
    return x / (one + exp(-x * mul_add(x * x, splat(gelu_cubic), splat(gelu_linear))));
  } else if constexpr (kind == activation_kind::gelu_erf) {
    vf density;
    return x * normal_cdf(x, density);
  } else if constexpr (kind == activation_kind::relu) {
    return max(splat(0.0f), x);
  } else if constexpr (kind == activation_kind::silu) {
    return x / (one + exp(-x));
  } else {
    const vf e = expm1_twice_abs(x);
    return (vf)((vi)(e / (e + 2.0f)) | ((vi)x & splat_i(INT32_MIN)));
  }
}

/// f'(x).
template <int kind>
DT_INLINE vf activate_gradient(vf x) {
  static_assert(kind >= 0 && kind < activation_kind::count);
  if constexpr (kind == activation_kind::gelu_tanh) {
    // Beyond 16 the derivative is 0 or 1; the cut keeps the powers of x finite.
    const vf cut = max(splat(-16.0f), min(splat(16.0f), x));
    const vf square = cut * cut;
    vf slope;
    const vf cdf = sigmoid(cut * mul_add(square, splat(gelu_cubic), splat(gelu_linear)), slope);
    return mul_add(slope * cut, mul_add(square, splat(3.0f * gelu_cubic), splat(gelu_linear)), cdf);
  } else if constexpr (kind == activation_kind::gelu_erf) {
    const vf cut = max(splat(-16.0f), min(splat(16.0f), x));
    vf density;
    const vf cdf = normal_cdf(cut, density);
    return mul_add(cut * splat(0.3989422804014327f), density, cdf);
  } else if constexpr (kind == activation_kind::relu) {
    return select(x > splat(0.0f), splat(1.0f), select(x != x, x, splat(0.0f)));
  } else if constexpr (kind == activation_kind::silu) {
    const vf cut = max(splat(-104.0f), min(splat(104.0f), x));
    vf slope;
    const vf y = sigmoid(cut, slope);
    return mul_add(slope, cut, y);
  } else {
    const vf e = expm1_twice_abs(x);
    const vf inverse = splat(1.0f) / (e + 2.0f);
    return splat(4.0f) * ((e + 1.0f) * inverse) * inverse;
  }
}

/// Calls body(std::integral_constant<int, kind>) for the kind that an attribute holds.
template <class F>
DT_INLINE void with_kind(const char* op, int64_t kind, F&& body) {
  switch (kind) {
    case 0: return body(std::integral_constant<int, 0>{});
    case 1: return body(std::integral_constant<int, 1>{});
    case 2: return body(std::integral_constant<int, 2>{});
    case 3: return body(std::integral_constant<int, 3>{});
    case 4: return body(std::integral_constant<int, 4>{});
    default: fail("%s: kind, expected 0 to %d, got %lld", op, activation_kind::count - 1, static_cast<long long>(kind));
  }
}

}  // namespace deeptroupe::DT_ISA
