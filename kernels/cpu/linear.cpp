// Linear layers on the packed product, with bias, residual and activation in its epilogue. Both weight layouts, and the
// transposed operands of the gradients, are strides: nothing is transposed in memory.
// Legend: M rows of x (all leading dims), K input features, N output features.
#include "activation.h"
#include "cross-entropy.h"
#include "gemm.h"

namespace deeptroupe::DT_ISA {

namespace {

/// A dense row-major matrix as it lies, or its transpose.
template <class T>
DT_INLINE Matrix<T> rows_of(const T* data, int64_t columns) {
  return {data, columns, 1};
}
template <class T>
DT_INLINE Matrix<T> columns_of(const T* data, int64_t columns) {
  return {data, 1, columns};
}

/// The weight as K x N: stored so where `transposed`, else as N x K.
template <class T>
DT_INLINE Matrix<T> weight_KN(const T* weight, bool transposed, int64_t k, int64_t n) {
  return transposed ? rows_of(weight, n) : columns_of(weight, k);
}
template <class T>
DT_INLINE Matrix<T> weight_NK(const T* weight, bool transposed, int64_t k, int64_t n) {
  return transposed ? columns_of(weight, n) : rows_of(weight, k);
}

/// y = x W (+ bias) (+ residual).
template <class T>
void affine(const Call& call, int64_t m, int64_t n, int64_t k, const T* x, Matrix<T> w, const T* bias, const T* residual, T* y) {
  Finish finish;
  finish.bias = bias;
  gemm<T, T>(call, m, n, k, rows_of(x, k), w, y, n, residual, finish);
}

template <class T>
void linear(const Call& call) {
  constexpr const char* op = "linear";
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.in(1));
  const T* bias = data_of<T>(op, "bias", call.inputs[2]);
  const T* residual = data_of<T>(op, "residual", call.inputs[3]);
  T* y = data_of<T>(op, "y", call.out(0));
  const int64_t m = call.in(0).rows(), k = call.in(0).last(), n = call.out(0).last();
  const Matrix<T> w = weight_KN(weight, call.attrs<abi::LinearAttributes>().transposed, k, n);
  affine(call, m, n, k, x, w, bias, residual, y);
}

template <class T>
void linear_input_gradient(const Call& call) {
  constexpr const char* op = "linear_input_gradient";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.in(1));
  T* dx = data_of<T>(op, "dx", call.out(0));
  const int64_t m = call.in(0).rows(), n = call.in(0).last(), k = call.out(0).last();
  const Matrix<T> w = weight_NK(weight, call.attrs<abi::LinearInputGradientAttributes>().transposed, k, n);
  gemm<T, T>(call, m, k, n, rows_of(dy, n), w, dx, k, nullptr);
}

template <class T>
void linear_input_gradient_activation(const Call& call) {
  constexpr const char* op = "linear_input_gradient_activation";
  const auto& attributes = call.attrs<abi::LinearInputGradientActivationAttributes>();
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.in(1));
  const T* pre = data_of<T>(op, "pre", call.in(2));
  T* dpre = data_of<T>(op, "dpre", call.out(0));
  const int64_t m = call.in(0).rows(), n = call.in(0).last(), k = call.out(0).last();
  const Matrix<T> w = weight_NK(weight, attributes.transposed, k, n);
  with_kind(op, attributes.kind, [&](auto kind) {
    const auto finish = [=](vf value, int64_t row, int64_t column, int lanes) {
      return value * activate_gradient<kind.value>(load_part(pre + row * k + column, lanes));
    };
    gemm<T, T>(call, m, k, n, rows_of(dy, n), w, dpre, k, nullptr, finish_with(finish, pre, k));
  });
}

template <class T>
void linear_weight_gradient(const Call& call) {
  constexpr const char* op = "linear_weight_gradient";
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* dy = data_of<T>(op, "dy", call.in(1));
  const int64_t m = call.in(0).rows(), k = call.in(0).last(), n = call.in(1).last();
  const bool transposed = call.attrs<abi::LinearWeightGradientAttributes>().transposed;
  with_gradient<T>(op, "dw", &call.out(0), [&]<class O>(TypeTag<O>) {
    O* dw = call.out(0).as<O>();
    if (transposed) gemm<T, O>(call, k, n, m, columns_of(x, k), rows_of(dy, n), dw, n, nullptr);
    else gemm<T, O>(call, n, k, m, columns_of(dy, n), rows_of(x, k), dw, k, nullptr);
  });
}

template <class T>
void linear_activation(const Call& call) {
  constexpr const char* op = "linear_activation";
  const auto& attributes = call.attrs<abi::LinearActivationAttributes>();
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.in(1));
  const T* bias = data_of<T>(op, "bias", call.inputs[2]);
  T* pre = data_of<T>(op, "pre", call.outputs[0]);
  T* y = data_of<T>(op, "y", call.outputs[1]);
  const int64_t m = call.in(0).rows(), k = call.in(0).last();
  const int64_t n = call.in(1).dims[attributes.transposed ? 1 : 0];
  const Matrix<T> w = weight_KN(weight, attributes.transposed, k, n);
  if (!y) return affine<T>(call, m, n, k, x, w, bias, nullptr, pre);
  with_kind(op, attributes.kind, [&](auto kind) {
    const auto finish = [=](vf value, int64_t row, int64_t column, int lanes) {
      if (bias) value += load_part(bias + column, lanes);
      value = round_to<T>(value);
      if (pre) store_part(pre + row * n + column, value, lanes);
      return activate<kind.value>(value);
    };
    gemm<T, T>(call, m, n, k, rows_of(x, k), w, y, n, nullptr, finish_with(finish, pre, n));
  });
}

/// The head's product and the loss over chunks of rows; with `gradients`, each chunk's logits become their own gradient: in place, a
/// row of T at the start of its row of f32.
template <class Attributes, bool gradients, class T, class O>
void linear_cross_entropy(const Call& call, O* dw) {
  constexpr const char* op = gradients ? "linear_cross_entropy_gradients" : "linear_cross_entropy";
  const auto& attributes = call.attrs<Attributes>();
  const bool transposed = attributes.transposed;
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.in(1));
  const int32_t* targets = data_of<int32_t>(op, "targets", call.in(2));
  float* loss = data_of(op, "loss", call.outputs[0]);
  T* dx = gradients ? data_of<T>(op, "dx", call.outputs[1]) : nullptr;
  const int64_t rows = call.in(0).rows(), features = call.in(0).last();
  const int64_t classes = call.in(1).dims[transposed ? 1 : 0];
  expect_indices(op, "targets", targets, rows, -1, classes);
  float factor = 0;
  if constexpr (gradients) factor = static_cast<float>(attributes.scale * data_of(op, "dloss", call.in(3))[0]);

  double* losses = reinterpret_cast<double*>(call.workspace + packing_bytes<T>(call.pool->threads()));
  float* logits = reinterpret_cast<float*>(losses + rows);
  T* const dlogits = reinterpret_cast<T*>(logits);
  constexpr int64_t widening = sizeof(float) / sizeof(T);
  const Matrix<T> rows_of_dlogits{dlogits, widening * classes, 1};
  for (int64_t first = 0; first < rows; first += attributes.rows) {
    const int64_t chunk = least(attributes.rows, rows - first);
    const T* x_chunk = x + first * features;
    const Matrix<T> x_rows = rows_of(x_chunk, features);
    gemm<T, float>(call, chunk, classes, features, x_rows, weight_KN(weight, transposed, features, classes), logits, classes,
                   nullptr);
    call.pool->each(chunk, [&](int64_t row, int) {
      float* row_logits = logits + row * classes;
      const int32_t target = targets[first + row];
      losses[first + row] = 0;
      float lse = 0;
      if (target >= 0) {
        const double exact = log_sum_exp(row_logits, classes);
        losses[first + row] = exact - static_cast<double>(row_logits[target]);
        lse = static_cast<float>(exact);
      }
      if (dx || dw) logit_gradients(dlogits + widening * row * classes, row_logits, classes, target, lse, factor);
    });
    if (dx) {
      gemm<T, T>(call, chunk, features, classes, rows_of_dlogits, weight_NK(weight, transposed, features, classes),
                 dx + first * features, features, nullptr);
    }
    if (!dw) continue;
    const O* before = first ? dw : nullptr;
    if (transposed) gemm<T, O>(call, features, classes, chunk, columns_of(x_chunk, features), rows_of_dlogits, dw, classes, before);
    else gemm<T, O>(call, classes, features, chunk, rows_of_dlogits.transposed(), x_rows, dw, features, before);
  }
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) total += losses[row];
  if (loss) loss[0] = static_cast<float>(attributes.scale * total);
}

template <class T>
void loss_of_head(const Call& call) {
  linear_cross_entropy<abi::LinearCrossEntropyAttributes, false, T>(call, static_cast<float*>(nullptr));
}

template <class T>
void gradients_of_head(const Call& call) {
  with_gradient<T>("linear_cross_entropy_gradients", "dw", call.outputs[2], [&]<class O>(TypeTag<O>) {
    O* dw = call.outputs[2] ? call.out(2).as<O>() : nullptr;
    linear_cross_entropy<abi::LinearCrossEntropyGradientsAttributes, true, T>(call, dw);
  });
}

}  // namespace

void add_linear(KernelTable& table) {
  add_kernel(table, abi::Opcode::linear, [](const Call& call) {
    with_float("linear", "x", call.in(0), [&]<class T>(TypeTag<T>) { linear<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_input_gradient, [](const Call& call) {
    with_float("linear_input_gradient", "dy", call.in(0), [&]<class T>(TypeTag<T>) { linear_input_gradient<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_weight_gradient, [](const Call& call) {
    with_float("linear_weight_gradient", "x", call.in(0), [&]<class T>(TypeTag<T>) { linear_weight_gradient<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_activation, [](const Call& call) {
    with_float("linear_activation", "x", call.in(0), [&]<class T>(TypeTag<T>) { linear_activation<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_input_gradient_activation, [](const Call& call) {
    with_float("linear_input_gradient_activation", "dy", call.in(0), [&]<class T>(TypeTag<T>) { linear_input_gradient_activation<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_cross_entropy, [](const Call& call) {
    with_float("linear_cross_entropy", "x", call.in(0), [&]<class T>(TypeTag<T>) { loss_of_head<T>(call); });
  });
  add_kernel(table, abi::Opcode::linear_cross_entropy_gradients, [](const Call& call) {
    with_float("linear_cross_entropy_gradients", "x", call.in(0), [&]<class T>(TypeTag<T>) { gradients_of_head<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
