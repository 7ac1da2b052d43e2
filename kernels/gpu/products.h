// Matrix products by cublasLt, which is opened at run time, or by a kernel of our own where there is none. One object per
// device and stream, used by one thread: it owns no device memory, its workspace is the instruction's.
#pragma once

#include <memory>
#include <vector>

#include "kernel.h"

namespace deeptroupe::gpu {

/// What the library does to the product before it stores it. GELU is the tanh form.
enum class Epilogue : uint8_t {
  none,
  /// aux = the product (with bias), d = gelu(the product before it is rounded).
  gelu_aux,
  /// d = the product * gelu'(aux).
  gelu_gradient,
};

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
  /// Elements from one row to the next as the matrices lie in memory (C as D); 0: they are dense.
  int64_t a_stride = 0, b_stride = 0, d_stride = 0;
  Epilogue epilogue = Epilogue::none;
  /// [m, n] of the result's dtype, dense.
  void* aux = nullptr;
};

/// The most that a product uses of its workspace: split sums over k. What workspace.ts asks for.
inline constexpr size_t product_workspace = size_t{64} << 20;

/// One way to compute a product, as measured.
struct Candidate {
  /// A line of the stored table (see choices.ts).
  std::string choice;
  double milliseconds;
  size_t workspace_bytes;
};

struct ProductOptions {
  /// f32 operands may be rounded to 10 bits of mantissa.
  bool tf32 = false;
  /// Kernels that fuse GELU leave it to the library's epilogues.
  bool gelu_epilogues = false;
  /// Text of the stored table.
  std::string choices;
};

class Products {
 public:
  explicit Products(const ProductOptions& options) : options_(options) {}
  virtual ~Products() = default;
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  const ProductOptions& options() const { return options_; }
  /// Name and version of what computes, for programs' fingerprints and the stored table.
  virtual std::string library() const = 0;
  /// Enqueues the product. Throws Error.
  virtual void enqueue(const Product& product, std::byte* workspace, size_t workspace_bytes, Stream stream) = 0;
  /// Times up to `limit` ways to compute the product on its own operands, the default first; waits for the device. D, C and aux are overwritten.
  virtual std::vector<Candidate> tune(const Product& product, std::byte* workspace, size_t workspace_bytes, Stream stream, int limit) = 0;

 private:
  const ProductOptions options_;
};

/// cublasLt where it is found, else products of our own; `reason` then says what was looked for. Throws Error where the library is found but refuses to start.
std::unique_ptr<Products> make_products(const Properties& properties, const ProductOptions& options = {}, std::string* reason = nullptr);

/// A plain kernel for every shape, layout and dtype: slow, and right.
std::unique_ptr<Products> make_portable_products(const ProductOptions& options = {});

}  // namespace deeptroupe::gpu
