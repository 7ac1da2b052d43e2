// A tensor as kernels of every backend see it: an address, a dtype and dims, dense and row-major.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

/// Always inlined: one object file per instruction set must never lend its code of a shared function to another.
#define DT_INLINE inline __attribute__((always_inline))
/// The same, also for code of a GPU.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define DT_ANYWHERE DT_INLINE __host__ __device__
#else
#define DT_ANYWHERE DT_INLINE
#endif

namespace deeptroupe {

enum class DType : uint32_t { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, i32 = 4, u8 = 5 };

struct Tensor {
  void* data;
  DType dtype;
  uint32_t rank;
  int64_t dims[6];

  DT_INLINE int64_t elements() const {
    int64_t n = 1;
    for (uint32_t i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  DT_INLINE int64_t last() const { return rank ? dims[rank - 1] : 1; }
  /// Elements of all dims but the last.
  DT_INLINE int64_t rows() const { return rank ? elements() / (last() ? last() : 1) : 1; }
  template <class T>
  DT_INLINE T* as() const { return static_cast<T*>(data); }
};

/// A kernel found a value that it cannot work with; the message says what, what was expected and what came.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace deeptroupe
