// Linear layers on the library's products, with bias and residual in its epilogue. Both weight layouts, and the transposed operands of
// the gradients, are flags of the product: nothing is transposed in memory. An activation is a pass of its own over the product, which
// rounds it on the way as `linear` and `activation` do, unless the options leave tanh GELU to the library.
// Legend: M rows of x (all leading dims), K input features, N output features.
#include "activation-pass.h"
#include "ahead.h"
#include "columns.h"
#include "products.h"

namespace deeptroupe::gpu {

namespace {

constexpr int threads = 256;
/// Rows whose derivatives a block adds up before the blocks' sums are added in order.
constexpr int chunk_rows = 64;
constexpr int row_warps = threads / warp;
/// Rows that a warp has asked for: one is worked on, the others are on their way.
constexpr int stages = 3;

/// y = y * f'(x) where `derive`, and per chunk of rows the sum of y as stored, in f32. A block takes a chunk of rows and 32 N columns: each
/// of its warps every eighth row in order, and then the warps' sums are added in order.
template <class T, int N, int kind, bool derive>
__global__ __launch_bounds__(threads, 4) void derivative_and_sums(const T* x, T* y, int64_t rows, int64_t width, int64_t strips, float* sums) {
  constexpr int operands = derive ? 2 : 1;
  __shared__ __align__(16) Pack<T, N> shared[stages * operands * threads];
  __shared__ float parts[row_warps][warp * N];
  const int lane = threadIdx.x % warp, own = threadIdx.x / warp;
  const int64_t chunk = blockIdx.x / strips, strip = blockIdx.x % strips * warp * N, column = strip + lane * N;
  const int64_t first = chunk * chunk_rows, step = row_warps * width;
  const int count = static_cast<int>(rows - first < chunk_rows ? rows - first : chunk_rows);
  float sum[N] = {};
  if (column < width) {
    const Places<T, N> places(shared, threadIdx.x, stages * operands);
    y += (first + own) * width + column, x += (first + own) * width + column;
    const T* next_y = y;
    int asked = own;
    const auto ask_next = [&](int stage) {
      if (asked < count) {
        places.ask(stage * operands, next_y);
        if constexpr (derive) places.ask(stage * operands + 1, x);
      }
      end_asking();
      asked += row_warps, next_y += step, x += step;
    };
#pragma unroll
    for (int stage = 0; stage < stages - 1; ++stage) ask_next(stage);
    for (int begin = own; begin < count; begin += stages * row_warps) {
#pragma unroll
      for (int stage = 0; stage < stages; ++stage) {
        if (begin + stage * row_warps >= count) break;
        ask_next((stage + stages - 1) % stages);
        wait_asked<stages - 1>();
        float value[N];
        widen(places.get(stage * operands), value);
        if constexpr (derive) {
          float at[N];
          widen(places.get(stage * operands + 1), at);
#pragma unroll
          for (int n = 0; n < N; ++n) value[n] *= activate_gradient<kind>(at[n]);
          const Pack<T, N> stored = narrow<T>(value);
          store_pack(y, stored);
          widen(stored, value);
        }
        y += step;
#pragma unroll
        for (int n = 0; n < N; ++n) sum[n] += value[n];
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) parts[own][lane * N + n] = sum[n];
  __syncthreads();
  for (int i = threadIdx.x; i < warp * N && strip + i < width; i += threads) {
    float total = parts[0][i];
#pragma unroll
    for (int other = 1; other < row_warps; ++other) total += parts[other][i];
    sums[chunk * width + strip + i] = total;
  }
}

/// y = y * f'(x) where `derive`, and the sum of its rows.
template <bool derive>
void enqueue_derivative_and_sum(const char* op, const Call& call, int64_t kind_number, const Tensor& x, const Tensor& y, const Tensor& sum) {
  const int64_t rows = y.rows(), width = y.last(), chunks = (rows + chunk_rows - 1) / chunk_rows;
  if (rows * width == 0) return;
  need_workspace(op, call, static_cast<size_t>(chunks * width) * sizeof(float));
  // The product is done with it by then.
  float* const sums = reinterpret_cast<float*>(call.workspace);
  with_float(y.dtype, [&]<class T>(T) {
    // Where nothing is derived the kind does not matter.
    with_kind(op, derive ? kind_number : activation_kind::gelu_tanh, [&](auto kind_of_x) {
      constexpr int kind = derive ? kind_of_x() : activation_kind::gelu_tanh;
      const auto run = [&]<int N>(std::integral_constant<int, N>) {
        const int64_t strips = (width + warp * N - 1) / (warp * N);
        launch(derivative_and_sums<T, N, kind, derive>, grid_of(op, strips * chunks), dim3(threads), 0, call.stream, x.as<T>(), y.as<T>(),
               rows, width, strips, sums);
      };
      constexpr int wide = per_pack<T>;
      if (width % wide == 0 && aligned(16, x.data, y.data)) run(std::integral_constant<int, wide>{});
      else run(std::integral_constant<int, 1>{});
    });
    with_gradient<T>(op, "sum", &sum, [&]<class O>(O) {
      total<O>(op, call, sums, chunks, {width, 1, {sum.as<O>(), nullptr, nullptr}});
    });
  });
}

void multiply(const Call& call, const Product& product) {
  call.products->enqueue(product, call.workspace, call.workspace_bytes, call.stream);
}

/// x W, to be completed by the caller: d, bias, residual. `weight` is [N, K], or [K, N] where `transposed`.
Product forward(const Tensor& x, const Tensor& weight, bool transposed) {
  return {.m = x.rows(),
          .n = weight.dims[transposed ? 1 : 0],
          .k = x.last(),
          .a = x.data,
          .b = weight.data,
          .c = nullptr,
          .d = nullptr,
          .a_transposed = false,
          .b_transposed = !transposed,
          .operands = x.dtype,
          .result = x.dtype,
          .alpha = 1,
          .beta = 0,
          .bias = nullptr};
}

/// dy W^T into dx.
Product input_gradient(const Tensor& dy, const Tensor& weight, bool transposed, const Tensor& dx) {
  Product product = forward(dy, weight, !transposed);
  product.d = dx.data;
  return product;
}

bool library_gelu(const Call& call, int64_t kind) { return kind == activation_kind::gelu_tanh && call.products->options().gelu_epilogues; }

void linear(const Call& call) {
  Product product = forward(call.in(0), call.in(1), call.attrs<abi::LinearAttributes>().transposed);
  product.d = call.out(0).data;
  if (call.has_in(2)) product.bias = call.in(2).data;
  if (call.has_in(3)) product.c = call.in(3).data, product.beta = 1;
  multiply(call, product);
}

void linear_input_gradient(const Call& call) {
  multiply(call, input_gradient(call.in(0), call.in(1), call.attrs<abi::LinearInputGradientAttributes>().transposed, call.out(0)));
}

void linear_weight_gradient(const Call& call) {
  const Tensor &x = call.in(0), &dy = call.in(1), &dw = call.out(0);
  const bool transposed = call.attrs<abi::LinearWeightGradientAttributes>().transposed;
  // dW = dy^T x as [N, K], or x^T dy as [K, N].
  const Tensor &left = transposed ? x : dy, &right = transposed ? dy : x;
  multiply(call, {.m = left.last(),
                  .n = right.last(),
                  .k = x.rows(),
                  .a = left.data,
                  .b = right.data,
                  .c = nullptr,
                  .d = dw.data,
                  .a_transposed = true,
                  .b_transposed = false,
                  .operands = x.dtype,
                  .result = dw.dtype,
                  .alpha = 1,
                  .beta = 0,
                  .bias = nullptr});
}

void linear_activation(const Call& call) {
  const auto& attributes = call.attrs<abi::LinearActivationAttributes>();
  Product product = forward(call.in(0), call.in(1), attributes.transposed);
  if (call.has_in(2)) product.bias = call.in(2).data;
  if (call.has_out(0) && call.has_out(1) && library_gelu(call, attributes.kind)) {
    product.d = call.out(1).data;
    product.epilogue = Epilogue::gelu_aux, product.aux = call.out(0).data;
    return multiply(call, product);
  }
  // Without a place of its own the pre-activation passes through y's.
  const Tensor& pre = call.out(call.has_out(0) ? 0 : 1);
  product.d = pre.data;
  multiply(call, product);
  if (!call.has_out(1)) return;
  with_float(pre.dtype, [&]<class T>(T) {
    enqueue_activation("linear_activation", call, attributes.kind, pre.elements(), pre.as<T>(), call.out(1).as<T>());
  });
}

void linear_input_gradient_activation(const Call& call) {
  constexpr const char* op = "linear_input_gradient_activation";
  const auto& attributes = call.attrs<abi::LinearInputGradientActivationAttributes>();
  const Tensor &pre = call.in(2), &dpre = call.out(0);
  const bool by_library = library_gelu(call, attributes.kind), sum = attributes.sum && call.has_out(1);
  Product product = input_gradient(call.in(0), call.in(1), attributes.transposed, dpre);
  if (by_library) product.epilogue = Epilogue::gelu_gradient, product.aux = pre.data;
  multiply(call, product);
  if (sum && by_library) enqueue_derivative_and_sum<false>(op, call, attributes.kind, pre, dpre, call.out(1));
  else if (sum) enqueue_derivative_and_sum<true>(op, call, attributes.kind, pre, dpre, call.out(1));
  else if (!by_library)
    with_float(pre.dtype, [&]<class T>(T) {
      enqueue_activation_backward(op, call, attributes.kind, pre.elements(), dpre.as<T>(), pre.as<T>(), dpre.as<T>());
    });
}

}  // namespace

void add_linear(KernelTable& table) {
  table.add(abi::Opcode::linear, linear);
  table.add(abi::Opcode::linear_input_gradient, linear_input_gradient);
  table.add(abi::Opcode::linear_weight_gradient, linear_weight_gradient);
  table.add(abi::Opcode::linear_activation, linear_activation);
  table.add(abi::Opcode::linear_input_gradient_activation, linear_input_gradient_activation);
}

}  // namespace deeptroupe::gpu
