// Linear layers on the library's products, with bias and residual in its epilogue. Both weight layouts, and the transposed operands of
// the gradients, are flags of the product: nothing is transposed in memory. An activation is a pass of its own over the product, which
// rounds it on the way as `linear` and `activation` do, unless the options leave tanh GELU to the library.
// Legend: M rows of x (all leading dims), K input features, N output features.
#include "activation.h"
#include "products.h"

namespace deeptroupe::gpu {

namespace {

constexpr int threads = 256;
/// Packs of 16 bytes that a thread of an activation pass takes, all loaded before the first is used.
constexpr int packs = 4;

/// y = f(x), or with `gradient` y = y * f'(x), over `count` elements in packs of N. May run in place.
template <class T, int N, int kind, bool gradient>
__global__ __launch_bounds__(threads) void activation_pass(const T* x, T* y, int64_t count) {
  const int64_t whole = count / N;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * threads * packs + threadIdx.x;
  Pack<T, N> in[packs], out[packs];
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    const int64_t at = first + p * threads;
    if (at >= whole) continue;
    in[p] = reinterpret_cast<const Pack<T, N>*>(x)[at];
    if (gradient) out[p] = reinterpret_cast<const Pack<T, N>*>(y)[at];
  }
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    const int64_t at = first + p * threads;
    if (at >= whole) continue;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float value = to_float(in[p].at[i]);
      out[p].at[i] = from_float<T>(gradient ? to_float(out[p].at[i]) * activate_gradient<kind>(value) : activate<kind>(value));
    }
    reinterpret_cast<Pack<T, N>*>(y)[at] = out[p];
  }
  const int64_t rest = whole * N + first;
  if (rest < count) {
    const float value = to_float(x[rest]);
    y[rest] = from_float<T>(gradient ? to_float(y[rest]) * activate_gradient<kind>(value) : activate<kind>(value));
  }
}

template <bool gradient>
void enqueue_activation(const char* op, int64_t kind_number, const Tensor& x, void* y, Stream stream) {
  const int64_t count = x.elements();
  if (count == 0) return;
  with_float(x.dtype, [&]<class T>(T) {
    with_kind(op, kind_number, [&](auto kind) {
      constexpr int wide = 16 / sizeof(T);
      const bool aligned = ((reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(y)) & 15) == 0;
      const auto run = [&]<int N>(std::integral_constant<int, N>) {
        const int64_t block = static_cast<int64_t>(threads) * packs * N;
        launch(activation_pass<T, N, kind(), gradient>, dim3(static_cast<unsigned>((count + block - 1) / block)), dim3(threads), 0, stream,
               x.as<T>(), static_cast<T*>(y), count);
      };
      if (aligned) run(std::integral_constant<int, wide>{});
      else run(std::integral_constant<int, 1>{});
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
  if (call.has_out(1)) enqueue_activation<false>("linear_activation", attributes.kind, pre, call.out(1).data, call.stream);
}

void linear_input_gradient_activation(const Call& call) {
  const auto& attributes = call.attrs<abi::LinearInputGradientActivationAttributes>();
  const Tensor &pre = call.in(2), &dpre = call.out(0);
  Product product = input_gradient(call.in(0), call.in(1), attributes.transposed, dpre);
  if (library_gelu(call, attributes.kind)) {
    product.epilogue = Epilogue::gelu_gradient, product.aux = pre.data;
    return multiply(call, product);
  }
  multiply(call, product);
  enqueue_activation<true>("linear_input_gradient_activation", attributes.kind, pre, dpre.data, call.stream);
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
