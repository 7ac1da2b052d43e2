// Checks that kernels make on their operands; each failure is a KernelError `op: what, expected X, got Y`.
#pragma once

#include <cstdio>
#include <type_traits>

#include "../abi/abi.h"
#include "isa.h"

namespace deeptroupe::DT_ISA {

template <class... A>
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(const char* format, A... values) {
  char message[256];
  std::snprintf(message, sizeof message, format, values...);
  throw KernelError(message);
}

inline const char* dtype_name(DType dtype) { return abi::dtype_names[static_cast<uint32_t>(dtype)]; }

/// The tensor's elements, which must have the C type's dtype.
template <class T = float>
DT_INLINE T* data_of(const char* op, const char* name, const Tensor& tensor) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, int32_t>);
  const DType expected = std::is_same_v<T, float> ? DType::f32 : std::is_same_v<T, double> ? DType::f64 : DType::i32;
  if (tensor.dtype != expected) {
    fail("%s: dtype of %s, expected %s, got %s", op, name, dtype_name(expected), dtype_name(tensor.dtype));
  }
  return tensor.as<T>();
}

/// The same of an operand that may be absent: null where it is.
template <class T = float>
DT_INLINE T* data_of(const char* op, const char* name, const Tensor* tensor) {
  return tensor ? data_of<T>(op, name, *tensor) : nullptr;
}

/// Every index must lie in [lowest, bound).
inline void expect_indices(const char* op, const char* name, const int32_t* indices, int64_t count, int32_t lowest,
                           int64_t bound) {
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] < lowest || indices[i] >= bound) {
      fail("%s: %s[%lld], expected %d to %lld, got %d", op, name, static_cast<long long>(i), lowest,
           static_cast<long long>(bound - 1), indices[i]);
    }
  }
}

inline void add_kernel(KernelTable& table, abi::Opcode opcode, Kernel kernel) {
  table.kernels[static_cast<size_t>(opcode)] = kernel;
}

}  // namespace deeptroupe::DT_ISA
