// Matrix products by cublasLt, which is opened at run time. One object per device and stream: it owns no memory, its
// workspace is the instruction's.
#pragma once

#include "kernel.h"

namespace deeptroupe::gpu {

/// D = alpha * op(A) op(B) + beta * C, with an epilogue. Matrices are row-major; `a_transposed` takes A as [k, m], `b_transposed` B as [n, k].
struct Product {
  int64_t m, n, k;
  const void* a;
  const void* b;
  const void* c;
  void* d;
  bool a_transposed, b_transposed;
  DType operands, result;
  float alpha, beta;
  /// Added to each row of D: n numbers of the result's dtype; null: none.
  const void* bias;
};

class Products {
 public:
  virtual ~Products() = default;
  /// Enqueues the product. Throws Error.
  virtual void enqueue(const Product& product, std::byte* workspace, size_t workspace_bytes, Stream stream) = 0;
};

}  // namespace deeptroupe::gpu
