// Checks that kernels make on their operands; each failure is a KernelError `op: what, expected X, got Y`.
#pragma once

#include <cstdio>
#include <type_traits>

#include "../abi/abi.h"
#include "convert.h"

namespace deeptroupe::DT_ISA {

template <class... A>
[[noreturn, gnu::cold, gnu::noinline]] inline void fail(const char* format, A... values) {
  char message[256];
  std::snprintf(message, sizeof message, format, values...);
  throw KernelError(message);
}

inline const char* dtype_name(DType dtype) { return abi::dtype_names[static_cast<uint32_t>(dtype)]; }

template <class T>
inline constexpr DType dtype_of = std::is_same_v<T, float>    ? DType::f32
                                  : std::is_same_v<T, double> ? DType::f64
                                  : std::is_same_v<T, bf16>   ? DType::bf16
                                  : std::is_same_v<T, f16>    ? DType::f16
                                                              : DType::i32;

/// The tensor's elements, which must have the C type's dtype.
template <class T = float>
DT_INLINE T* data_of(const char* op, const char* name, const Tensor& tensor) {
  static_assert(dtype_of<T> != DType::i32 || std::is_same_v<T, int32_t>);
  if (tensor.dtype != dtype_of<T>) {
    fail("%s: dtype of %s, expected %s, got %s", op, name, dtype_name(dtype_of<T>), dtype_name(tensor.dtype));
  }
  return tensor.as<T>();
}

/// The same of an operand that may be absent: null where it is.
template <class T = float>
DT_INLINE T* data_of(const char* op, const char* name, const Tensor* tensor) {
  return tensor ? data_of<T>(op, name, *tensor) : nullptr;
}

template <class T>
struct TypeTag {
  using type = T;
};

/// Calls body(tag) with a tag whose `type` is the element type of a tensor of f32, bf16 or f16.
template <class F>
DT_INLINE void with_float(const char* op, const char* name, const Tensor& tensor, F&& body) {
  switch (tensor.dtype) {
    case DType::f32: return body(TypeTag<float>{});
    case DType::bf16: return body(TypeTag<bf16>{});
    case DType::f16: return body(TypeTag<f16>{});
    default: fail("%s: dtype of %s, expected f32, bf16 or f16, got %s", op, name, dtype_name(tensor.dtype));
  }
}

/// The same for a parameter gradient beside operands of T: T itself, or f32.
template <class T, class F>
DT_INLINE void with_gradient(const char* op, const char* name, const Tensor* tensor, F&& body) {
  if (!tensor || tensor->dtype == dtype_of<T>) return body(TypeTag<T>{});
  data_of<float>(op, name, *tensor);
  return body(TypeTag<float>{});
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
