// Linear layers on the packed product, with bias, residual and activation in its epilogue. Both weight layouts, and the
// transposed operands of the gradients, are strides: nothing is transposed in memory.
// Legend: M rows of x (all leading dims), K input features, N output features.
#include "activation.h"
#include "cross-entropy.h"
#include "gemm.h"

namespace deeptroupe::DT_ISA {

namespace {

/// A dense row-major matrix as it lies, or its transpose.
DT_INLINE Matrix rows_of(const float* data, int64_t columns) { return {data, columns, 1}; }
DT_INLINE Matrix columns_of(const float* data, int64_t columns) { return {data, 1, columns}; }

/// The weight as K x N: stored so where `transposed`, else as N x K.
DT_INLINE Matrix weight_KN(const float* weight, bool transposed, int64_t k, int64_t n) {
  return transposed ? rows_of(weight, n) : columns_of(weight, k);
}
DT_INLINE Matrix weight_NK(const float* weight, bool transposed, int64_t k, int64_t n) {
  return transposed ? columns_of(weight, n) : rows_of(weight, k);
}

struct AddBias {
  const float* bias;
  DT_INLINE vf operator()(vf value, int64_t, int64_t column, int lanes) const {
    return value + load_part(bias + column, lanes);
  }
};

void linear(const Call& call) {
  constexpr const char* op = "linear";
  const float* x = data_of(op, "x", call.in(0));
  const float* weight = data_of(op, "weight", call.in(1));
  const float* bias = data_of(op, "bias", call.inputs[2]);
  const float* residual = data_of(op, "residual", call.inputs[3]);
  float* y = data_of(op, "y", call.out(0));
  const int64_t m = call.in(0).rows(), k = call.in(0).last(), n = call.out(0).last();
  const Matrix w = weight_KN(weight, call.attrs<abi::LinearAttributes>().transposed, k, n);
  if (bias) gemm(call, m, n, k, rows_of(x, k), w, y, n, residual, AddBias{bias});
  else gemm(call, m, n, k, rows_of(x, k), w, y, n, residual);
}

void linear_input_gradient(const Call& call) {
  constexpr const char* op = "linear_input_gradient";
  const float* dy = data_of(op, "dy", call.in(0));
  const float* weight = data_of(op, "weight", call.in(1));
  float* dx = data_of(op, "dx", call.out(0));
  const int64_t m = call.in(0).rows(), n = call.in(0).last(), k = call.out(0).last();
  const Matrix w = weight_NK(weight, call.attrs<abi::LinearInputGradientAttributes>().transposed, k, n);
  gemm(call, m, k, n, rows_of(dy, n), w, dx, k, nullptr);
}

void linear_input_gradient_activation(const Call& call) {
  constexpr const char* op = "linear_input_gradient_activation";
  const auto& attributes = call.attrs<abi::LinearInputGradientActivationAttributes>();
  const float* dy = data_of(op, "dy", call.in(0));
  const float* weight = data_of(op, "weight", call.in(1));
  const float* pre = data_of(op, "pre", call.in(2));
  float* dpre = data_of(op, "dpre", call.out(0));
  const int64_t m = call.in(0).rows(), n = call.in(0).last(), k = call.out(0).last();
  const Matrix w = weight_NK(weight, attributes.transposed, k, n);
  with_kind(op, attributes.kind, [&](auto kind) {
    const auto finish = [=](vf value, int64_t row, int64_t column, int lanes) {
      return value * activate_gradient<kind.value>(load_part(pre + row * k + column, lanes));
    };
    gemm(call, m, k, n, rows_of(dy, n), w, dpre, k, nullptr, finish);
  });
}

void linear_weight_gradient(const Call& call) {
  constexpr const char* op = "linear_weight_gradient";
  const float* x = data_of(op, "x", call.in(0));
  const float* dy = data_of(op, "dy", call.in(1));
  float* dw = data_of(op, "dw", call.out(0));
  const int64_t m = call.in(0).rows(), k = call.in(0).last(), n = call.in(1).last();
  const bool transposed = call.attrs<abi::LinearWeightGradientAttributes>().transposed;
  if (transposed) gemm(call, k, n, m, columns_of(x, k), rows_of(dy, n), dw, n, nullptr);
  else gemm(call, n, k, m, columns_of(dy, n), rows_of(x, k), dw, k, nullptr);
}

void linear_activation(const Call& call) {
  constexpr const char* op = "linear_activation";
  const auto& attributes = call.attrs<abi::LinearActivationAttributes>();
  const float* x = data_of(op, "x", call.in(0));
  const float* weight = data_of(op, "weight", call.in(1));
  const float* bias = data_of(op, "bias", call.inputs[2]);
  float* pre = data_of(op, "pre", call.outputs[0]);
  float* y = data_of(op, "y", call.outputs[1]);
  const int64_t m = call.in(0).rows(), k = call.in(0).last();
  const int64_t n = call.in(1).dims[attributes.transposed ? 1 : 0];
  const Matrix w = weight_KN(weight, attributes.transposed, k, n);
  if (!y) {
    if (bias) gemm(call, m, n, k, rows_of(x, k), w, pre, n, nullptr, AddBias{bias});
    else gemm(call, m, n, k, rows_of(x, k), w, pre, n, nullptr);
    return;
  }
  with_kind(op, attributes.kind, [&](auto kind) {
    const auto finish = [=](vf value, int64_t row, int64_t column, int lanes) {
      if (bias) value += load_part(bias + column, lanes);
      if (pre) store_part(pre + row * n + column, value, lanes);
      return activate<kind.value>(value);
    };
    gemm(call, m, n, k, rows_of(x, k), w, y, n, nullptr, finish);
  });
}

/// The head's product and the loss over chunks of rows; with `gradients`, each chunk's logits become their own gradient.
template <class Attributes, bool gradients>
void linear_cross_entropy(const Call& call) {
  constexpr const char* op = gradients ? "linear_cross_entropy_gradients" : "linear_cross_entropy";
  const auto& attributes = call.attrs<Attributes>();
  const bool transposed = attributes.transposed;
  const float* x = data_of(op, "x", call.in(0));
  const float* weight = data_of(op, "weight", call.in(1));
  const int32_t* targets = data_of<int32_t>(op, "targets", call.in(2));
  float* loss = data_of(op, "loss", call.outputs[0]);
  float* dx = gradients ? data_of(op, "dx", call.outputs[1]) : nullptr;
  float* dw = gradients ? data_of(op, "dw", call.outputs[2]) : nullptr;
  const int64_t rows = call.in(0).rows(), features = call.in(0).last();
  const int64_t classes = call.in(1).dims[transposed ? 1 : 0];
  expect_indices(op, "targets", targets, rows, -1, classes);
  float factor = 0;
  if constexpr (gradients) factor = static_cast<float>(attributes.scale * data_of(op, "dloss", call.in(3))[0]);

  double* losses = reinterpret_cast<double*>(call.workspace + packing_bytes(call.pool->threads()));
  float* logits = reinterpret_cast<float*>(losses + rows);
  for (int64_t first = 0; first < rows; first += attributes.rows) {
    const int64_t chunk = least(attributes.rows, rows - first);
    const float* x_chunk = x + first * features;
    const Matrix x_rows = rows_of(x_chunk, features);
    gemm(call, chunk, classes, features, x_rows, weight_KN(weight, transposed, features, classes), logits, classes, nullptr);
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
      if (dx || dw) logit_gradients(row_logits, row_logits, classes, target, lse, factor);
    });
    if (dx) {
      gemm(call, chunk, features, classes, rows_of(logits, classes), weight_NK(weight, transposed, features, classes),
           dx + first * features, features, nullptr);
    }
    if (!dw) continue;
    const float* before = first ? dw : nullptr;
    if (transposed) {
      gemm(call, features, classes, chunk, columns_of(x_chunk, features), rows_of(logits, classes), dw, classes, before);
    } else {
      gemm(call, classes, features, chunk, columns_of(logits, classes), x_rows, dw, features, before);
    }
  }
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) total += losses[row];
  if (loss) loss[0] = static_cast<float>(attributes.scale * total);
}

}  // namespace

void add_linear(KernelTable& table) {
  add_kernel(table, abi::Opcode::linear, linear);
  add_kernel(table, abi::Opcode::linear_input_gradient, linear_input_gradient);
  add_kernel(table, abi::Opcode::linear_weight_gradient, linear_weight_gradient);
  add_kernel(table, abi::Opcode::linear_activation, linear_activation);
  add_kernel(table, abi::Opcode::linear_input_gradient_activation, linear_input_gradient_activation);
  add_kernel(table, abi::Opcode::linear_cross_entropy, linear_cross_entropy<abi::LinearCrossEntropyAttributes, false>);
  add_kernel(table, abi::Opcode::linear_cross_entropy_gradients,
             linear_cross_entropy<abi::LinearCrossEntropyGradientsAttributes, true>);
}

}  // namespace deeptroupe::DT_ISA
