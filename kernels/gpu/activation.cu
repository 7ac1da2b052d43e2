// Activations and their gradients as instructions.
#include "activation-pass.h"

namespace deeptroupe::gpu {

namespace {

template <class T>
void activation(const Call& call) {
  constexpr const char* op = "activation";
  const T* x = data_of<T>(op, "x", call.in(0));
  T* y = data_of<T>(op, "y", call.out(0));
  enqueue_activation(op, call, call.attrs<abi::ActivationAttributes>().kind, call.in(0).elements(), x, y);
}

template <class T>
void activation_backward(const Call& call) {
  constexpr const char* op = "activation_backward";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* x = data_of<T>(op, "x", call.in(1));
  T* dx = data_of<T>(op, "dx", call.out(0));
  enqueue_activation_backward(op, call, call.attrs<abi::ActivationBackwardAttributes>().kind, call.in(0).elements(), dy, x, dx);
}

}  // namespace

void add_activation(KernelTable& table) {
  table.add(abi::Opcode::activation, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { activation<T>(call); });
  });
  table.add(abi::Opcode::activation_backward, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { activation_backward<T>(call); });
  });
}

}  // namespace deeptroupe::gpu
