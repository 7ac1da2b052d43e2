// Cross-entropy over rows of logits, alone and fused with the head's product in chunks of rows. A block streams a row: once for its
// maximum and sum, kept online, and once more for gradients, which replace the logits. Row losses go to the workspace and are added in
// float64 by one block, in an order that the number of rows alone decides. Legend: V classes.
#include <algorithm>

#include "cross-entropy.h"
#include "each.h"
#include "products.h"

namespace deeptroupe::gpu {

namespace {

constexpr int most_threads = 512;
constexpr int sum_threads = 1024;

/// Threads for a row of so many packs.
int threads_for(int64_t packs) {
  return static_cast<int>(std::clamp<int64_t>((packs + warp - 1) / warp * warp, warp, most_threads));
}

template <class T, int N>
__device__ Mass mass_of_row(const T* logits, int64_t classes) {
  Mass mass = Mass::none();
  const int64_t body = classes / N * N;
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < body; i += static_cast<int64_t>(blockDim.x) * N) {
    float x[N], highest = -INFINITY;
    widen(load_pack<N>(logits + i), x);
#pragma unroll
    for (int j = 0; j < N; ++j) highest = fmaxf(highest, x[j]);
    mass.rescale(highest);
    const float shift = shift_of(mass.top);
#pragma unroll
    for (int j = 0; j < N; ++j) mass.sum += exp2_fast((x[j] - shift) * log2_of_e);
  }
  if (body + threadIdx.x < classes) {
    const float x = to_float(logits[body + threadIdx.x]);
    mass.rescale(x);
    mass.sum += exp2_fast((x - shift_of(mass.top)) * log2_of_e);
  }
  return mass;
}

/// out = factor * (e^(logit - shift) / sum - onehot(target)), zeros in a masked row. `out` may be `logits`.
template <class T, int N>
__device__ void gradients_of_row(const T* logits, T* out, int64_t classes, int32_t target, float shift, float sum, float factor) {
  const int64_t body = classes / N * N;
  const float inverse = 1.0f / sum, scale = target < 0 ? 0.0f : factor * inverse * lowering;
  const int owner = static_cast<int>(target < body ? target / N % blockDim.x : target - body);
  const bool owns = target >= 0 && static_cast<int>(threadIdx.x) == owner;
  float at_target = 0.0f;
  if (owns) at_target = factor * (exp2_fast((to_float(logits[target]) - shift) * log2_of_e) * inverse - 1.0f);
  const auto gradient = [&](float x) { return target < 0 ? 0.0f : scale * exp2_fast(fmaf(x - shift, log2_of_e, lift)); };
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * N; i < body; i += static_cast<int64_t>(blockDim.x) * N) {
    float x[N];
    widen(load_pack<N>(logits + i), x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = gradient(x[j]);
    store_pack(out + i, narrow<T>(x));
  }
  if (body + threadIdx.x < classes) out[body + threadIdx.x] = from_float<T>(gradient(to_float(logits[body + threadIdx.x])));
  if (owns) out[target] = from_float<T>(at_target);
}

__device__ inline float factor_of(double scale, const float* dloss) { return static_cast<float>(scale * static_cast<double>(dloss[0])); }

template <class T, int N>
__global__ __launch_bounds__(most_threads) void losses_of_rows(const T* logits, int64_t stride, const RowLoss loss) {
  __shared__ Mass slots[warp];
  const int64_t row = blockIdx.x;
  const T* const in = logits + row * stride;
  const int32_t target = loss.class_of(loss.targets[row]);
  const Mass mass = block_mass(mass_of_row<T, N>(in, loss.classes), slots);
  if (threadIdx.x == 0) loss.store(row, target, target < 0 ? 0.0f : to_float(in[target]), mass);
}

template <class T, int N>
__global__ __launch_bounds__(most_threads) void losses_and_gradients_of_rows(T* logits, int64_t stride, const RowLoss loss,
                                                                             const float* dloss, double scale) {
  __shared__ Mass slots[warp];
  const int64_t row = blockIdx.x;
  T* const in = logits + row * stride;
  const int32_t target = loss.class_of(loss.targets[row]);
  const float logit_of_target = threadIdx.x == 0 && target >= 0 ? to_float(in[target]) : 0.0f;
  const Mass mass = block_mass(mass_of_row<T, N>(in, loss.classes), slots);
  if (threadIdx.x == 0) loss.store(row, target, logit_of_target, mass);
  gradients_of_row<T, N>(in, in, loss.classes, target, shift_of(mass.top), mass.sum, factor_of(scale, dloss));
}

template <class T, int N>
__global__ __launch_bounds__(most_threads) void gradients_of_rows(const T* logits, T* out, const RowLoss loss, const float* lse,
                                                                  const float* dloss, double scale) {
  const int64_t row = blockIdx.x;
  gradients_of_row<T, N>(logits + row * loss.classes, out + row * loss.classes, loss.classes, loss.class_of(loss.targets[row]), lse[row], 1.0f,
                         factor_of(scale, dloss));
}

__global__ __launch_bounds__(sum_threads) void sum_of_losses(const double* losses, int64_t rows, double scale, float* loss) {
  __shared__ double parts[warp];
  double sum = 0;
  for (int64_t row = threadIdx.x; row < rows; row += sum_threads) sum += losses[row];
  sum = warp_sum(sum);
  if (threadIdx.x % warp == 0) parts[threadIdx.x / warp] = sum;
  __syncthreads();
  if (threadIdx.x >= warp) return;
  sum = warp_sum(parts[threadIdx.x]);
  if (threadIdx.x == 0) loss[0] = static_cast<float>(scale * sum);
}
static_assert(sum_threads == warp * warp);

/// to = from, rounded.
template <class T>
struct Rounding {
  static constexpr int held = 2;
  const float* from;
  T* to;

  template <int N>
  struct Held {
    float values[N];
  };
  template <int N>
  __device__ void load(int64_t at, Held<N>& held) const {
    load_floats(from + at, held.values);
  }
  template <int N>
  __device__ void store(int64_t at, const Held<N>& held) const {
    store_pack(to + at, narrow<T>(held.values));
  }
};

/// Calls body(std::integral_constant<int, N>) with the widest pack that rows at these addresses allow.
template <class T, class F, class... P>
void with_pack(int64_t stride, F&& body, const P*... bases) {
  if (stride % per_pack<T> == 0 && aligned(16, bases...)) body(std::integral_constant<int, per_pack<T>>{});
  else body(std::integral_constant<int, 1>{});
}

void enqueue_sum_of_losses(const Call& call, const double* losses, int64_t rows, double scale, const Tensor& loss) {
  launch(sum_of_losses, dim3(1), dim3(sum_threads), 0, call.stream, losses, rows, scale, loss.as<float>());
}

RowLoss row_loss(const Call& call, const Tensor& targets, int64_t classes, double* losses, float* lse) {
  return {targets.as<int32_t>(), losses, lse, classes, call.fault, call.instruction};
}

void cross_entropy(const Call& call) {
  constexpr const char* op = "cross_entropy";
  const Tensor& logits = call.in(0);
  const int64_t rows = logits.rows(), classes = logits.last();
  if (rows == 0) return;
  need_workspace(op, call, rows * sizeof(double));
  double* const losses = reinterpret_cast<double*>(call.workspace);
  const RowLoss loss = row_loss(call, call.in(1), classes, losses, call.has_out(1) ? call.out(1).as<float>() : nullptr);
  with_float(logits.dtype, [&]<class T>(T) {
    with_pack<T>(classes, [&]<int N>(std::integral_constant<int, N>) {
      launch(losses_of_rows<T, N>, grid_of(op, rows), dim3(threads_for(classes / N)), 0, call.stream, logits.as<T>(), classes, loss);
    }, logits.data);
  });
  if (call.has_out(0)) enqueue_sum_of_losses(call, losses, rows, call.attrs<abi::CrossEntropyAttributes>().scale, call.out(0));
}

void cross_entropy_backward(const Call& call) {
  constexpr const char* op = "cross_entropy_backward";
  const Tensor &logits = call.in(0), &out = call.out(0);
  const int64_t rows = logits.rows(), classes = logits.last();
  if (rows == 0) return;
  const RowLoss loss = row_loss(call, call.in(1), classes, nullptr, nullptr);
  const double scale = call.attrs<abi::CrossEntropyBackwardAttributes>().scale;
  with_float(logits.dtype, [&]<class T>(T) {
    with_pack<T>(classes, [&]<int N>(std::integral_constant<int, N>) {
      launch(gradients_of_rows<T, N>, grid_of(op, rows), dim3(threads_for(classes / N)), 0, call.stream, logits.as<T>(), out.as<T>(), loss,
             call.in(2).as<float>(), call.in(3).as<float>(), scale);
    }, logits.data, out.data);
  });
}

/// Where the fused head works. Sizes are those of workspace.ts.
struct HeadMemory {
  double* losses;
  std::byte* logits;
  /// f32 sums of dW over several chunks, where dW has 16 bits; null where it needs none.
  float* dw;
  std::byte* product;
  size_t product_bytes;

  HeadMemory(const char* op, const Call& call, int64_t rows, size_t logits_bytes, size_t dw_bytes) {
    size_t used = 0;
    const auto take = [&](size_t bytes) {
      const size_t start = used;
      used += (bytes + 255) / 256 * 256;
      return call.workspace + start;
    };
    losses = reinterpret_cast<double*>(take(rows * sizeof(double)));
    logits = take(logits_bytes);
    std::byte* const sums = take(dw_bytes);
    dw = dw_bytes ? reinterpret_cast<float*>(sums) : nullptr;
    need_workspace(op, call, used);
    product = call.workspace + used;
    product_bytes = call.workspace_bytes - used;
  }
};

template <class Attributes, bool gradients>
void linear_cross_entropy(const Call& call) {
  constexpr const char* op = gradients ? "linear_cross_entropy_gradients" : "linear_cross_entropy";
  const auto& attributes = call.attrs<Attributes>();
  const bool transposed = attributes.transposed;
  const Tensor &x = call.in(0), &weight = call.in(1), &targets = call.in(2);
  const int64_t rows = x.rows(), features = x.last(), classes = weight.dims[transposed ? 1 : 0];
  if (rows == 0) return;
  const int64_t chunk_rows = std::min<int64_t>(attributes.rows, rows);
  // Rows of odd length would cost the products their tensor cores.
  const int64_t stride = (classes + 127) / 128 * 128;
  const int64_t element = dtype_size(x.dtype);
  const Tensor* dx = nullptr;
  const Tensor* dw = nullptr;
  if constexpr (gradients) dx = call.outputs[1], dw = call.outputs[2];
  const bool dw_sums = dw && dw->dtype != DType::f32 && chunk_rows < rows;
  const HeadMemory memory(op, call, rows, chunk_rows * stride * element, dw_sums ? classes * features * sizeof(float) : 0);
  const auto multiply = [&](const Product& product) { call.products->enqueue(product, memory.product, memory.product_bytes, call.stream); };

  for (int64_t first = 0; first < rows; first += chunk_rows) {
    const int64_t chunk = std::min(chunk_rows, rows - first);
    const std::byte* const x_chunk = x.as<std::byte>() + first * features * element;
    const Product whole{.m = chunk,
                        .n = classes,
                        .k = features,
                        .a = x_chunk,
                        .b = weight.data,
                        .c = nullptr,
                        .d = memory.logits,
                        .a_transposed = false,
                        .b_transposed = !transposed,
                        .operands = x.dtype,
                        .result = x.dtype,
                        .alpha = 1,
                        .beta = 0,
                        .bias = nullptr,
                        .d_stride = stride};
    multiply(whole);

    RowLoss loss = row_loss(call, targets, classes, memory.losses + first, nullptr);
    loss.targets += first;
    with_float(x.dtype, [&]<class T>(T) {
      T* const logits = reinterpret_cast<T*>(memory.logits);
      if (!dx && !dw) {
        constexpr int N = per_pack<T>;
        launch(losses_of_rows<T, N>, grid_of(op, chunk), dim3(threads_for(classes / N)), 0, call.stream, logits, stride, loss);
        return;
      }
      if constexpr (gradients) {
        constexpr int N = per_pack<T>;
        const float* const dloss = call.in(3).as<float>();
        if (enqueue_classifier(call, loss, x.dtype, logits, stride, chunk, dloss, attributes.scale)) return;
        launch(losses_and_gradients_of_rows<T, N>, grid_of(op, chunk), dim3(threads_for(classes / N)), 0, call.stream, logits, stride, loss,
               dloss, attributes.scale);
      }
    });

    if (dx) {
      Product product = whole;
      product.n = features, product.k = classes;
      product.a = memory.logits, product.a_stride = stride;
      product.b_transposed = transposed;
      product.d = dx->as<std::byte>() + first * features * element, product.d_stride = 0;
      multiply(product);
    }
    if (dw) {
      Product product = whole;
      product.m = transposed ? features : classes, product.n = transposed ? classes : features, product.k = chunk;
      product.a_transposed = true, product.b_transposed = false;
      product.a = transposed ? static_cast<const void*>(x_chunk) : memory.logits;
      product.b = transposed ? memory.logits : static_cast<const void*>(x_chunk);
      (transposed ? product.b_stride : product.a_stride) = stride;
      product.d = dw_sums ? memory.dw : dw->data, product.d_stride = 0;
      product.c = product.d;
      product.result = dw_sums ? DType::f32 : dw->dtype;
      product.beta = first ? 1 : 0;
      multiply(product);
    }
  }
  if (dw_sums) {
    with_float(dw->dtype, [&]<class T>(T) {
      each<per_pack<T>>(op, call, classes * features, aligned(16, dw->data), Rounding<T>{memory.dw, dw->as<T>()});
    });
  }
  if (call.has_out(0)) enqueue_sum_of_losses(call, memory.losses, rows, attributes.scale, call.out(0));
}

}  // namespace

void add_cross_entropy(KernelTable& table) {
  table.add(abi::Opcode::cross_entropy, cross_entropy);
  table.add(abi::Opcode::cross_entropy_backward, cross_entropy_backward);
  table.add(abi::Opcode::linear_cross_entropy, linear_cross_entropy<abi::LinearCrossEntropyAttributes, false>);
  table.add(abi::Opcode::linear_cross_entropy_gradients, linear_cross_entropy<abi::LinearCrossEntropyGradientsAttributes, true>);
}

}  // namespace deeptroupe::gpu
