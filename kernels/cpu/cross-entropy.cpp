// Cross-entropy over rows of logits, read once: the log-sum-exp is kept online over chunks of the vocabulary that fit the
// first-level cache. Row losses are added in float64 in row order. The form fused with the head's product is in linear.cpp.
#include "check.h"
#include "cross-entropy.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Logits of one task.
constexpr int64_t block = 16384;

DT_INLINE int64_t rows_of_task(int64_t classes) { return classes >= block ? 1 : block / (classes ? classes : 1); }

template <class T>
void cross_entropy(const Call& call) {
  constexpr const char* op = "cross_entropy";
  const T* logits = data_of<T>(op, "logits", call.in(0));
  const int32_t* targets = data_of<int32_t>(op, "targets", call.in(1));
  float* loss = data_of(op, "loss", call.out(0));
  float* lse = data_of(op, "lse", call.outputs[1]);
  const int64_t classes = call.in(0).last(), rows = call.in(0).rows();
  double* losses = reinterpret_cast<double*>(call.workspace);
  expect_indices(op, "targets", targets, rows, -1, classes);
  each_block(call, rows, rows_of_task(classes), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* in = logits + row * classes;
      const double value = log_sum_exp(in, classes);
      losses[row] = targets[row] < 0 ? 0.0 : value - static_cast<double>(widen_one(in[targets[row]]));
      if (lse) lse[row] = static_cast<float>(value);
    }
  });
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) total += losses[row];
  loss[0] = static_cast<float>(call.attrs<abi::CrossEntropyAttributes>().scale * total);
}

template <class T>
void cross_entropy_backward(const Call& call) {
  constexpr const char* op = "cross_entropy_backward";
  const T* logits = data_of<T>(op, "logits", call.in(0));
  const int32_t* targets = data_of<int32_t>(op, "targets", call.in(1));
  const float* lse = data_of(op, "lse", call.in(2));
  const float* dloss = data_of(op, "dloss", call.in(3));
  T* dlogits = data_of<T>(op, "dlogits", call.out(0));
  const int64_t classes = call.in(0).last(), rows = call.in(0).rows();
  const double scale = call.attrs<abi::CrossEntropyBackwardAttributes>().scale;
  const float factor = static_cast<float>(scale * static_cast<double>(dloss[0]));
  expect_indices(op, "targets", targets, rows, -1, classes);
  each_block(call, rows, rows_of_task(classes), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      logit_gradients(dlogits + row * classes, logits + row * classes, classes, targets[row], lse[row], factor);
    }
  });
}

}  // namespace

void add_cross_entropy(KernelTable& table) {
  add_kernel(table, abi::Opcode::cross_entropy, [](const Call& call) {
    with_float("cross_entropy", "logits", call.in(0), [&]<class T>(TypeTag<T>) { cross_entropy<T>(call); });
  });
  add_kernel(table, abi::Opcode::cross_entropy_backward, [](const Call& call) {
    with_float("cross_entropy_backward", "logits", call.in(0), [&]<class T>(TypeTag<T>) { cross_entropy_backward<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
