// What the tensor cores' forward and backward share: tiles of a head in shared memory, and the lanes' part in them.
// A row of D numbers takes an odd number of 16-byte chunks, so eight neighbouring rows at one column lie in eight different
// groups of banks: every load of matrices and every store of fragments is free of conflicts, and all offsets are constants.
#pragma once

#include "attention.h"
#include "mma.h"

#include <initializer_list>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

/// Bytes from one row of D 16-bit numbers to the next.
template <int D>
inline constexpr int stride_of = (D / 8 | 1) * 16;

/// Starts copies of `ROWS` rows of D numbers into shared memory; a thread takes some chunks of some rows, the same in every call.
template <int ROWS, int D, int THREADS>
struct RowCopy {
  static constexpr int chunks = D / 8;
  /// Threads that share a row: their chunks lie together.
  static constexpr int sharing = chunks % 8 == 0 ? 8 : chunks % 4 == 0 ? 4 : 2;
  static constexpr int at_once = THREADS / sharing;
  static_assert(chunks % sharing == 0 && (ROWS % at_once == 0 || at_once % ROWS == 0));

  static __device__ int row() { return static_cast<int>(threadIdx.x) / sharing; }
  static __device__ int chunk() { return static_cast<int>(threadIdx.x) % sharing; }

  /// The rows begin at `from` and are `from_stride` numbers apart; those from `valid` on, which is at least 1, become zeros.
  template <class T>
  static __device__ void start(uint32_t to, const T* from, int from_stride, int valid) {
    if (at_once > ROWS && row() >= ROWS) return;
    to += row() * stride_of<D> + chunk() * 16;
    from += chunk() * 8;
    if (valid >= ROWS) {
      const T* at = from + static_cast<int64_t>(row()) * from_stride;
      const int64_t step = static_cast<int64_t>(at_once) * from_stride;
#pragma unroll
      for (int first = 0; first < ROWS; first += at_once, at += step) {
#pragma unroll
        for (int c = 0; c < chunks; c += sharing) copy_async(to + first * stride_of<D> + c * 16, at + c * 8, true);
      }
    } else {
#pragma unroll 1
      for (int first = 0; first < ROWS; first += at_once) {
        const bool inside = first + row() < valid;
        const T* const at = from + static_cast<int64_t>(inside ? first + row() : 0) * from_stride;
#pragma unroll
        for (int c = 0; c < chunks; c += sharing) copy_async(to + first * stride_of<D> + c * 16, at + c * 8, inside);
      }
    }
  }
};

/// Writes a warp's `ROWS` rows of D numbers from shared memory, 16 bytes at a time, rows from `valid` on left out.
template <int ROWS, int D, class T>
__device__ inline void store_rows(T* to, const unsigned char* from, int to_stride, int valid) {
  constexpr int chunks = D / 8, total = ROWS * chunks;
  static_assert(total % warp == 0);
#pragma unroll
  for (int first = 0; first < total; first += warp) {
    const int i = first + static_cast<int>(threadIdx.x) % warp, row = i / chunks, chunk = i % chunks;
    if (row < valid) {
      *reinterpret_cast<uint4*>(to + static_cast<int64_t>(row) * to_stride + chunk * 8) =
          *reinterpret_cast<const uint4*>(from + row * stride_of<D> + chunk * 16);
    }
  }
}

/// A lane's address in a 16 x 16 tile: matrices in the order (rows, columns) 00, 10, 01, 11 of halves of the tile ...
__device__ inline int rows_first(int stride) {
  const int lane = threadIdx.x % warp;
  return (lane & 15) * stride + (lane >> 4) * 16;
}
/// ... and in the order 00, 01, 10, 11.
__device__ inline int columns_first(int stride) {
  const int lane = threadIdx.x % warp;
  return ((lane & 7) + (lane >> 4) * 8) * stride + (lane >> 3 & 1) * 16;
}

/// Two tiles of C beside each other as one of A.
template <class T>
__device__ inline void to_operand(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
  a[0] = pack<T>(left[0], left[1]), a[1] = pack<T>(left[2], left[3]);
  a[2] = pack<T>(right[0], right[1]), a[3] = pack<T>(right[2], right[3]);
}

/// to = left * right^T for rows of D numbers in shared memory: `left` is a lane's address (rows_first) in ROWS tiles of 16 of them,
/// `right` (columns_first) in COLUMNS / 2 others.
template <class T, int D, int ROWS, int COLUMNS>
__device__ inline void multiply_rows(float (&to)[ROWS][COLUMNS][4], uint32_t left, uint32_t right) {
  constexpr int stride = stride_of<D>;
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    uint32_t a[ROWS][4];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) load_matrices(a[i], left + i * 16 * stride + d * 32);
#pragma unroll
    for (int n = 0; n < COLUMNS / 2; ++n) {
      uint32_t b[4];
      load_matrices(b, right + n * 16 * stride + d * 32);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          float(&sum)[4] = to[i][2 * n + u];
          if (d == 0) multiply_add<T>(sum, a[i], b[2 * u], b[2 * u + 1], {0, 0, 0, 0});
          else multiply_add<T>(sum, a[i], b[2 * u], b[2 * u + 1], sum);
        }
      }
    }
  }
}

/// One step of 16 of to += left * right: `from` is a lane's address (rows_first) in the 16 rows of `right` in shared memory.
template <class T, int ROWS, int COLUMNS>
__device__ inline void multiply_step(float (&to)[ROWS][COLUMNS][4], const uint32_t (&left)[ROWS][4], uint32_t from) {
#pragma unroll
  for (int n = 0; n < COLUMNS; n += 2) {
    if (n + 1 < COLUMNS) {
      uint32_t b[4];
      load_matrices_transposed(b, from + n * 16);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int u = 0; u < 2; ++u) multiply_add<T>(to[i][n + u], left[i], b[2 * u], b[2 * u + 1], to[i][n + u]);
      }
    } else {
      uint32_t b[2];
      load_matrices_transposed(b, from + n * 16);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) multiply_add<T>(to[i][n], left[i], b[0], b[1], to[i][n]);
    }
  }
}

/// Whether the tensor cores' path takes a call of this plan whose operands lie at `pointers`. The online maximum needs a positive scale.
inline bool fits_mma(const Call& call, const Plan& plan, std::initializer_list<const void*> pointers) {
  if (call.device->major < 8 || !(plan.scale > 0) || !(plan.size == 64 || plan.size == 80 || plan.size == 96 || plan.size == 128)) return false;
  const DType dtype = call.in(0).dtype;
  if (dtype != DType::bf16 && dtype != DType::f16) return false;
  for (const void* pointer : pointers)
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  return true;
}

/// Calls f with a value of `T` and the head size as a constant, for the pairs that these kernels are compiled for.
template <class F>
void with_mma_types(DType dtype, int size, F&& f) {
  const auto with_size = [&]<class T>(T) {
    switch (size) {
      case 64: return f.template operator()<T, 64>();
      case 80: return f.template operator()<T, 80>();
      case 96: return f.template operator()<T, 96>();
      default: return f.template operator()<T, 128>();
    }
  };
  if (dtype == DType::bf16) return with_size(bf16{});
  return with_size(f16{});
}

}  // namespace deeptroupe::gpu

#endif
