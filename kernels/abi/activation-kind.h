// The attribute `kind` of activations, as kernels/ops/activation.ts numbers them.
#pragma once

namespace deeptroupe {

namespace activation_kind {
inline constexpr int gelu_tanh = 0;
inline constexpr int gelu_erf = 1;
inline constexpr int relu = 2;
inline constexpr int silu = 3;
inline constexpr int tanh = 4;
inline constexpr int count = 5;
}  // namespace activation_kind

}  // namespace deeptroupe
