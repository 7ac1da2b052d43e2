// Products by a kernel of our own, for devices without cublasLt and for what it does not support: every shape, stride and dtype, each
// element one chain of fused multiply-adds over k in f32. Slow: no tensor cores.
#include "activation.h"
#include "products.h"

namespace deeptroupe::gpu {

namespace {

/// Sides of the tile of D that a block computes and of the part that a thread holds, and steps of k at a time.
constexpr int tile = 64, part = 4, depth = 16;
constexpr int threads = (tile / part) * (tile / part);

template <class T, class R>
struct Operands {
  const T* a;
  const T* b;
  const R* c;
  R* d;
  const R* bias;
  R* aux;
  int64_t m, n, k, tiles_n;
  /// Elements from a[i][s] to a[i + 1][s] and to a[i][s + 1]; of b from [s][j] to [s + 1][j] and to [s][j + 1].
  int64_t a_row, a_step, b_step, b_column, d_row;
  float alpha, beta;
  Epilogue epilogue;
};

template <class T, class R>
__global__ __launch_bounds__(threads) void multiply(const Operands<T, R> o) {
  __shared__ float a_rows[depth][tile + 1], b_columns[depth][tile + 1];
  const int64_t row = blockIdx.x / o.tiles_n * tile, column = blockIdx.x % o.tiles_n * tile;
  const int thread = threadIdx.x, own_row = thread / (tile / part) * part, own_column = thread % (tile / part) * part;
  float sums[part][part] = {};
  for (int64_t step = 0; step < o.k; step += depth) {
    for (int i = thread; i < tile * depth; i += threads) {
      // Neighbouring threads read neighbouring addresses, whichever way the matrix lies.
      const int a_i = o.a_step == 1 ? i / depth : i % tile, a_s = o.a_step == 1 ? i % depth : i / tile;
      const int b_j = o.b_step == 1 ? i / depth : i % tile, b_s = o.b_step == 1 ? i % depth : i / tile;
      const bool a_in = row + a_i < o.m && step + a_s < o.k, b_in = column + b_j < o.n && step + b_s < o.k;
      a_rows[a_s][a_i] = a_in ? to_float(o.a[(row + a_i) * o.a_row + (step + a_s) * o.a_step]) : 0.0f;
      b_columns[b_s][b_j] = b_in ? to_float(o.b[(step + b_s) * o.b_step + (column + b_j) * o.b_column]) : 0.0f;
    }
    __syncthreads();
    const int steps = o.k - step < depth ? static_cast<int>(o.k - step) : depth;
    for (int s = 0; s < steps; ++s)
#pragma unroll
      for (int i = 0; i < part; ++i)
#pragma unroll
        for (int j = 0; j < part; ++j) sums[i][j] = fmaf(a_rows[s][own_row + i], b_columns[s][own_column + j], sums[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < part; ++i)
#pragma unroll
    for (int j = 0; j < part; ++j) {
      const int64_t at_row = row + own_row + i, at_column = column + own_column + j;
      if (at_row >= o.m || at_column >= o.n) continue;
      const int64_t at = at_row * o.d_row + at_column;
      float value = o.alpha * sums[i][j];
      if (o.c) value = fmaf(o.beta, to_float(o.c[at]), value);
      if (o.bias) value += to_float(o.bias[at_column]);
      if (o.epilogue == Epilogue::gelu_aux) {
        o.aux[at_row * o.n + at_column] = from_float<R>(value);
        value = activate<activation_kind::gelu_tanh>(value);
      } else if (o.epilogue == Epilogue::gelu_gradient) {
        value *= activate_gradient<activation_kind::gelu_tanh>(to_float(o.aux[at_row * o.n + at_column]));
      }
      o.d[at] = from_float<R>(value);
    }
}

class PortableProducts final : public Products {
 public:
  using Products::Products;
  std::string library() const override { return "portable 1"; }

  void enqueue(const Product& product, std::byte*, size_t, Stream stream) override {
    if (product.m == 0 || product.n == 0) return;
    with_float(product.operands, [&]<class T>(T) {
      if (product.result == product.operands) return run<T, T>(product, stream);
      if (product.result == DType::f32) return run<T, float>(product, stream);
      throw KernelError("product: dtype of the result, expected the operands' or f32, got number " +
                        std::to_string(static_cast<int>(product.result)));
    });
  }

  std::vector<Candidate> tune(const Product&, std::byte*, size_t, Stream, int) override { return {}; }

 private:
  template <class T, class R>
  static void run(const Product& p, Stream stream) {
    const int64_t a = p.a_stride ? p.a_stride : p.a_transposed ? p.m : p.k, b = p.b_stride ? p.b_stride : p.b_transposed ? p.k : p.n;
    const int64_t tiles_m = (p.m + tile - 1) / tile, tiles_n = (p.n + tile - 1) / tile;
    const Operands<T, R> operands{static_cast<const T*>(p.a),
                                  static_cast<const T*>(p.b),
                                  p.beta != 0 ? static_cast<const R*>(p.c) : nullptr,
                                  static_cast<R*>(p.d),
                                  static_cast<const R*>(p.bias),
                                  static_cast<R*>(p.aux),
                                  p.m,
                                  p.n,
                                  p.k,
                                  tiles_n,
                                  p.a_transposed ? 1 : a,
                                  p.a_transposed ? a : 1,
                                  p.b_transposed ? 1 : b,
                                  p.b_transposed ? b : 1,
                                  p.d_stride ? p.d_stride : p.n,
                                  p.alpha,
                                  p.beta,
                                  p.epilogue};
    launch(multiply<T, R>, dim3(static_cast<unsigned>(tiles_m * tiles_n)), dim3(threads), 0, stream, operands);
  }
};

}  // namespace

std::unique_ptr<Products> make_portable_products(const ProductOptions& options) { return std::make_unique<PortableProducts>(options); }

}  // namespace deeptroupe::gpu
