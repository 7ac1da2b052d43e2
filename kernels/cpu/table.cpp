// The kernel table of one instruction set.
#include "isa.h"

#define DT_NAME_(isa) #isa
#define DT_NAME(isa) DT_NAME_(isa)

namespace deeptroupe::DT_ISA {

const KernelTable& kernel_table() {
  static const KernelTable table = [] {
    KernelTable t{};
    t.isa = DT_NAME(DT_ISA);
    add_activation(t);
    add_attention(t);
    add_ceiling(t);
    add_cross_entropy(t);
    add_dropout(t);
    add_elementwise(t);
    add_embedding(t);
    add_fill(t);
    add_linear(t);
    add_norm(t);
    add_optimizer(t);
    add_softmax(t);
    add_sum(t);
    return t;
  }();
  return table;
}

}  // namespace deeptroupe::DT_ISA
