// Layer normalisation: a row stays in the first-level cache between its passes, so memory is read once and written once.
#include "check.h"
#include "row.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Rows whose parameter gradients are added up before the chunks are.
constexpr int64_t chunk_rows = 64;
constexpr int64_t small = 8192;

/// Rows of one task.
DT_INLINE int64_t rows_of_task(int64_t width) { return width >= small ? 1 : small / (width ? width : 1); }

template <class T>
void layer_norm(const Call& call) {
  constexpr const char* op = "layer_norm";
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* weight = data_of<T>(op, "weight", call.inputs[1]);
  const T* bias = data_of<T>(op, "bias", call.inputs[2]);
  T* y = data_of<T>(op, "y", call.out(0));
  float* means = data_of(op, "mean", call.outputs[1]);
  float* rstds = data_of(op, "rstd", call.outputs[2]);
  const double epsilon = call.attrs<abi::LayerNormAttributes>().epsilon;
  const int64_t width = call.in(0).last();
  each_block(call, call.in(0).rows(), rows_of_task(width), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = x + row * width;
      T* out = y + row * width;
      const double total = sum_over_row(width, [=](int64_t j, int n) { return load_part(in + j, n); });
      const float mean = static_cast<float>(total / static_cast<double>(width));
      const double squares = sum_over_row(width, [=](int64_t j, int n) {
        const vf d = load_first(in + j, n, splat(mean)) - mean;
        return d * d;
      });
      const float rstd = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(width) + epsilon));
      for (int64_t j = 0; j < width; j += VL) {
        const int n = lanes_left(width - j);
        vf v = (load_part(in + j, n) - mean) * rstd;
        if (weight) v *= load_part(weight + j, n);
        if (bias) v += load_part(bias + j, n);
        store_part(out + j, v, n);
      }
      if (means) means[row] = mean;
      if (rstds) rstds[row] = rstd;
    }
  });
}

/// Operands of T, parameter gradients of O.
template <class T, class O>
void layer_norm_backward(const Call& call) {
  constexpr const char* op = "layer_norm_backward";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* x = data_of<T>(op, "x", call.in(1));
  const T* weight = data_of<T>(op, "weight", call.inputs[2]);
  const float* means = data_of(op, "mean", call.in(3));
  const float* rstds = data_of(op, "rstd", call.in(4));
  const T* residual = data_of<T>(op, "residual", call.inputs[5]);
  T* dx = data_of<T>(op, "dx", call.outputs[0]);
  O* dweight = data_of<O>(op, "dweight", call.outputs[1]);
  O* dbias = data_of<O>(op, "dbias", call.outputs[2]);
  const int64_t width = call.in(0).last(), rows = call.in(0).rows();
  const float inverse_width = 1.0f / static_cast<float>(width);
  const bool parameters = dweight || dbias;
  // Per chunk of rows: the sums for the weight, then those for the bias.
  float* partial = reinterpret_cast<float*>(call.workspace);
  const int64_t chunks = (rows + chunk_rows - 1) / chunk_rows;
  each_block(call, chunks, rows * width <= small ? chunks : 1, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin * chunk_rows; row < rows && row < end * chunk_rows; ++row) {
      const T* g = dy + row * width;
      const T* in = x + row * width;
      const float mean = means[row], rstd = rstds[row];
      float* dw = partial + row / chunk_rows * 2 * width;
      float* db = dw + width;
      vf sum_g{}, sum_gx{};
      const auto pass = [&](auto parameters, auto first) {
        for (int64_t j = 0; j < width; j += VL) {
          const int n = lanes_left(width - j);
          const vf gj = load_part(g + j, n), normal = (load_part(in + j, n) - mean) * rstd, product = gj * normal;
          if constexpr (parameters()) {
            store_part(dw + j, first() ? product : load_part(dw + j, n) + product, n);
            store_part(db + j, first() ? gj : load_part(db + j, n) + gj, n);
          }
          const vf w = weight ? load_part(weight + j, n) : splat(1.0f);
          sum_g = mul_add(gj, w, sum_g);
          sum_gx = mul_add(product, w, sum_gx);
        }
      };
      if (!parameters) pass(std::false_type{}, std::false_type{});
      else if (row % chunk_rows == 0) pass(std::true_type{}, std::true_type{});
      else pass(std::true_type{}, std::false_type{});
      if (!dx) continue;
      const vf mean_g = splat(sum(sum_g) * inverse_width), mean_gx = splat(sum(sum_gx) * inverse_width);
      for (int64_t j = 0; j < width; j += VL) {
        const int n = lanes_left(width - j);
        const vf normal = (load_part(in + j, n) - mean) * rstd;
        const vf gj = weight ? load_part(g + j, n) * load_part(weight + j, n) : load_part(g + j, n);
        vf v = (gj - mul_add(normal, mean_gx, mean_g)) * rstd;
        if (residual) v += load_part(residual + row * width + j, n);
        store_part(dx + row * width + j, v, n);
      }
    }
  });
  if (!parameters) return;
  each_block(call, width, chunks * width <= small ? width : 256, [=](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; j += VL) {
      const int n = lanes_left(end - j);
      vf dw{}, db{};
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        dw += load_part(partial + chunk * 2 * width + j, n);
        db += load_part(partial + chunk * 2 * width + width + j, n);
      }
      if (dweight) store_part(dweight + j, dw, n);
      if (dbias) store_part(dbias + j, db, n);
    }
  });
}

}  // namespace

void add_norm(KernelTable& table) {
  add_kernel(table, abi::Opcode::layer_norm, [](const Call& call) {
    with_float("layer_norm", "x", call.in(0), [&]<class T>(TypeTag<T>) { layer_norm<T>(call); });
  });
  add_kernel(table, abi::Opcode::layer_norm_backward, [](const Call& call) {
    with_float("layer_norm_backward", "dy", call.in(0), [&]<class T>(TypeTag<T>) {
      const Tensor* gradient = call.has_out(1) ? call.outputs[1] : call.outputs[2];
      with_gradient<T>("layer_norm_backward", "dweight", gradient, [&]<class O>(TypeTag<O>) { layer_norm_backward<T, O>(call); });
    });
  });
}

}  // namespace deeptroupe::DT_ISA
