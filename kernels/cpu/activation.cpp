// Activations and their gradients over whole tensors.
#include "activation.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 8192;

template <class T>
void activation(const Call& call) {
  constexpr const char* op = "activation";
  const T* x = data_of<T>(op, "x", call.in(0));
  T* y = data_of<T>(op, "y", call.out(0));
  with_kind(op, call.attrs<abi::ActivationAttributes>().kind, [&](auto kind) {
    each_block(call, call.in(0).elements(), block, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += VL) {
        const int n = lanes_left(end - i);
        store_part(y + i, activate<kind()>(load_part(x + i, n)), n);
      }
    });
  });
}

template <class T>
void activation_backward(const Call& call) {
  constexpr const char* op = "activation_backward";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* x = data_of<T>(op, "x", call.in(1));
  T* dx = data_of<T>(op, "dx", call.out(0));
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
  add_kernel(table, abi::Opcode::activation, [](const Call& call) {
    with_float("activation", "x", call.in(0), [&]<class T>(TypeTag<T>) { activation<T>(call); });
  });
  add_kernel(table, abi::Opcode::activation_backward, [](const Call& call) {
    with_float("activation_backward", "dy", call.in(0), [&]<class T>(TypeTag<T>) { activation_backward<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
