// What profiles hold instructions against: the most multiply-adds that this instruction set does on operands in registers, and a
// stream through memory. Both run on one thread; native/executor/ceilings.cpp runs them on several at once.
#include "gemm.h"

namespace deeptroupe::DT_ISA {

namespace {

/// More sums than the instructions' latency times their number in a cycle, and few enough for the registers.
#if defined(__AVX512F__)
constexpr int SUMS = 24;
#define DT_REGISTER "+v"
#else
constexpr int SUMS = 12;
#define DT_REGISTER "+x"
#endif

template <int step>
double multiply_adds(int64_t rounds) {
  vf sum[SUMS] = {};
  alignas(64) float one[VL];
  store(one, splat(1e-3f));
  const vf row = load(one);
  // Sums that the compiler knows to be equal would be one.
#pragma GCC unroll 24
  for (int s = 0; s < SUMS; ++s) asm volatile("" : DT_REGISTER(sum[s]));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int s = 0; s < SUMS; ++s) sum[s] = multiply_step<step>(one, row, sum[s]);
  }
  volatile float sink = 0;
  for (int s = 0; s < SUMS; ++s) sink = sink + sum[s][0];
  return 2.0 * step * SUMS * VL * static_cast<double>(rounds);
}

double multiply_adds_of(DType dtype, int64_t rounds) {
  return dtype == DType::bf16 ? multiply_adds<STEP<bf16>>(rounds) : multiply_adds<1>(rounds);
}

/// to += from / 2, for a multiple of VL: two reads and one write of each element.
void stream(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += VL) store(to + i, mul_add(load(from + i), splat(0.5f), load(to + i)));
}

}  // namespace

void add_ceiling(KernelTable& table) {
  table.multiply_adds = multiply_adds_of;
  table.stream = stream;
}

}  // namespace deeptroupe::DT_ISA
