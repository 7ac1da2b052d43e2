// The kernel table of the GPU.
#include "kernel.h"

namespace deeptroupe::gpu {

const KernelTable& kernel_table() {
  static const KernelTable table = [] {
    KernelTable t{};
    add_activation(t);
    add_attention(t);
    add_cross_entropy(t);
    add_dropout(t);
    add_elementwise(t);
    add_embedding(t);
    add_fill(t);
    add_linear(t);
    add_norm(t);
    add_optimizer(t);
    add_softmax(t);
    return t;
  }();
  return table;
}

}  // namespace deeptroupe::gpu
