// Whether a tensor in the host's memory has a number that is infinite or none.
#pragma once

#include <algorithm>

#include "../../kernels/abi/tensor.h"

namespace deeptroupe {

/// True where any of `count` numbers has all bits of `exponent` set, which makes it infinite or not a number.
template <class Bits>
bool any_non_finite(const void* data, int64_t count, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  constexpr int64_t block = 4096;
  for (int64_t start = 0; start < count; start += block) {
    const int64_t end = std::min(count, start + block);
    Bits found = 0;
    for (int64_t i = start; i < end; ++i) found |= (bits[i] & exponent) == exponent;
    if (found) return true;
  }
  return false;
}

/// Of tensors that are not of floating point: never.
inline bool non_finite(const Tensor& tensor) {
  switch (tensor.dtype) {
    case DType::f32: return any_non_finite<uint32_t>(tensor.data, tensor.elements(), 0x7f800000u);
    case DType::f64: return any_non_finite<uint64_t>(tensor.data, tensor.elements(), 0x7ff0000000000000u);
    case DType::bf16: return any_non_finite<uint16_t>(tensor.data, tensor.elements(), 0x7f80u);
    case DType::f16: return any_non_finite<uint16_t>(tensor.data, tensor.elements(), 0x7c00u);
    default: return false;
  }
}

}  // namespace deeptroupe
