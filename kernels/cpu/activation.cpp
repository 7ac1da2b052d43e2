// Activations and their gradients over whole tensors.
#include "activation.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 8192;

void activation(const Call& call) {
  constexpr const char* op = "activation";
  const float* x = data_of(op, "x", call.in(0));
  float* y = data_of(op, "y", call.out(0));
  with_kind(op, call.attrs<abi::ActivationAttributes>().kind, [&](auto kind) {
    each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += VL) {
        const int n = lanes_left(end - i);
        store_part(y + i, activate<kind()>(load_part(x + i, n)), n);
      }
    });
  });
}

void activation_backward(const Call& call) {
  constexpr const char* op = "activation_backward";
  const float* dy = data_of(op, "dy", call.in(0));
  const float* x = data_of(op, "x", call.in(1));
  float* dx = data_of(op, "dx", call.out(0));
  with_kind(op, call.attrs<abi::ActivationBackwardAttributes>().kind, [&](auto kind) {
    each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += VL) {
        const int n = lanes_left(end - i);
        store_part(dx + i, load_part(dy + i, n) * activate_gradient<kind()>(load_part(x + i, n)), n);
      }
    });
  });
}

}  // namespace

void add_activation(KernelTable& table) {
  add_kernel(table, abi::Opcode::activation, activation);
  add_kernel(table, abi::Opcode::activation_backward, activation_backward);
}

}  // namespace deeptroupe::DT_ISA
