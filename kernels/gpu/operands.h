// What kernels ask of their operands before they launch: dtypes, alignment, this rank's slice of a unit. A failure is a KernelError
// `op: what, expected X, got Y`.
#pragma once

#include <type_traits>

#include "kernel.h"

namespace deeptroupe::gpu {

[[noreturn]] inline void fail(const char* op, const std::string& what, const std::string& expected, const std::string& got) {
  throw KernelError(std::string(op) + ": " + what + ", expected " + expected + ", got " + got);
}

inline const char* dtype_name(DType dtype) { return abi::dtype_names[static_cast<uint32_t>(dtype)]; }
inline int64_t dtype_size(DType dtype) { return abi::dtype_bytes[static_cast<uint32_t>(dtype)]; }

template <class T>
inline constexpr DType dtype_of = std::is_same_v<T, float>    ? DType::f32
                                  : std::is_same_v<T, double> ? DType::f64
                                  : std::is_same_v<T, bf16>   ? DType::bf16
                                  : std::is_same_v<T, f16>    ? DType::f16
                                                              : DType::i32;

/// The tensor's elements, which must have the C++ type's dtype.
template <class T = float>
T* data_of(const char* op, const char* name, const Tensor& tensor) {
  static_assert(dtype_of<T> != DType::i32 || std::is_same_v<T, int32_t>);
  if (tensor.dtype != dtype_of<T>) fail(op, std::string("dtype of ") + name, dtype_name(dtype_of<T>), dtype_name(tensor.dtype));
  return tensor.as<T>();
}

/// The same of an operand that may be absent: null where it is.
template <class T = float>
T* data_of(const char* op, const char* name, const Tensor* tensor) {
  return tensor ? data_of<T>(op, name, *tensor) : nullptr;
}

/// Calls f with a value of a parameter gradient's type beside operands of T: T itself, or f32.
template <class T, class F>
void with_gradient(const char* op, const char* name, const Tensor* tensor, F&& f) {
  if (!tensor || tensor->dtype == dtype_of<T>) return f(T{});
  data_of<float>(op, name, *tensor);
  return f(float{});
}

/// Whether every address (null: none) is a multiple of `bytes`.
template <class... P>
bool aligned(size_t bytes, const P*... addresses) {
  return ((reinterpret_cast<uintptr_t>(addresses) | ... | uintptr_t{0}) & (bytes - 1)) == 0;
}

/// Throws KernelError where the instruction's scratch memory is smaller: workspace.ts and the kernel then differ.
inline void need_workspace(const char* op, const Call& call, size_t bytes) {
  if (call.workspace_bytes < bytes) fail(op, "workspace", std::to_string(bytes) + " bytes", std::to_string(call.workspace_bytes));
}

/// A unit is a run of parameters stored side by side and sharded together. A rank works on its slice: elements first to last of it.
struct Slice {
  int64_t first;
  int64_t last;
};

/// This rank's slice of a unit of `length` elements in `shards` equal parts.
inline Slice slice_of(const Call& call, int64_t length, int64_t shards) {
  const int64_t size = length / shards;
  return shards > 1 ? Slice{call.rank * size, (call.rank + 1) * size} : Slice{0, length};
}

/// Where element 0 of the unit would lie: the operand is the whole unit, or this rank's slice of it.
template <class T = float>
T* unit_base(const char* op, const char* name, const Tensor& tensor, int64_t length, Slice slice) {
  T* data = data_of<T>(op, name, tensor);
  const int64_t got = tensor.elements(), part = slice.last - slice.first;
  if (got == length) return data;
  if (got != part) fail(op, std::string("elements of ") + name, std::to_string(length) + " or " + std::to_string(part), std::to_string(got));
  return data - slice.first;
}

inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/// A grid of one dim. Throws KernelError where it has more blocks than a grid takes.
inline dim3 grid_of(const char* op, int64_t blocks) {
  if (blocks > INT32_MAX) fail(op, "size", "at most 2147483647 blocks", std::to_string(blocks));
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace deeptroupe::gpu
