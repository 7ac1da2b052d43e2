// Attention (kernels/ops/attention.ts): reads a call's attributes and picks the path by shape, dtype, scale and chip alone.
#include "attention.h"

#include <cmath>

namespace deeptroupe::gpu {

namespace {

template <class Attributes>
Plan plan_of(const char* op, const Call& call, const Tensor& qkv) {
  const Attributes& attributes = call.attrs<Attributes>();
  const int64_t batch = qkv.dims[0], sequence = qkv.dims[1], width = qkv.dims[2], heads = attributes.heads;
  constexpr int64_t limit = int64_t{1} << 31;
  if (width >= limit || batch * heads * ((sequence + 63) / 64) >= limit) {
    throw KernelError(std::string(op) + ": shape of qkv, expected less than 2^31 numbers in a position and blocks of 64 positions, got [" +
                      std::to_string(batch) + ", " + std::to_string(sequence) + ", " + std::to_string(width) + "]");
  }
  const double p = attributes.dropout;
  Plan plan{};
  plan.batch = static_cast<int>(batch), plan.sequence = static_cast<int>(sequence);
  plan.heads = static_cast<int>(heads), plan.size = static_cast<int>(width / 3 / heads);
  plan.causal = attributes.causal != 0, plan.scale = static_cast<float>(attributes.scale);
  plan.dropout = {p > 0,
                  p < 1,
                  p < 1 ? static_cast<uint32_t>(p * 0x1p32) : 0,
                  static_cast<uint32_t>(attributes.op_id),
                  p < 1 ? static_cast<float>(1.0 / (1.0 - p)) : 0.0f,
                  call.scalars[0],
                  call.scalars[1],
                  call.scalars[2]};
  return plan;
}

void attention(const Call& call) {
  const Plan plan = plan_of<abi::AttentionAttributes>("attention", call, call.in(0));
  if (call.in(0).elements() == 0) return;
#if !defined(__HIP__)
  if (has_forward_hopper(call, plan)) return forward_hopper(call, plan);
  if (has_forward_mma(call, plan)) return forward_mma(call, plan);
#endif
  forward_portable(call, plan);
}

void attention_backward(const Call& call) {
  const Plan plan = plan_of<abi::AttentionBackwardAttributes>("attention_backward", call, call.in(1));
  if (call.in(1).elements() == 0) return;
#if !defined(__HIP__)
  if (has_backward_hopper(call, plan)) return backward_hopper(call, plan);
  if (has_backward_mma(call, plan)) return backward_mma(call, plan);
#endif
  backward_portable(call, plan);
}

}  // namespace

void add_attention(KernelTable& table) {
  table.add(abi::Opcode::attention, attention);
  table.add(abi::Opcode::attention_backward, attention_backward);
}

}  // namespace deeptroupe::gpu
