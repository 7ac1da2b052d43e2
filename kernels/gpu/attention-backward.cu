// What the tensor cores' backward passes need before they start: statistics of the queries, cleared flags and counter.
#include "attention-backward.h"
#include "attention-mma.h"

#include <cmath>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

namespace {

/// Fills in the statistics, a row of D numbers to each `LANES` lanes, and clears flags and ticket.
template <class T, int D>
__global__ void __launch_bounds__(256)
    prepare(const Plan plan, const Exchange exchange, int padded, int64_t flags, const T* __restrict__ d_o, const T* __restrict__ o,
            const float* __restrict__ lse) {
  constexpr int LANES = D <= 64 ? 8 : 16;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread < flags) exchange.added[thread] = 0;
  if (thread == 0) *exchange.ticket = 0;
  const int64_t row = thread / LANES, position = row / plan.heads;
  const int chunk = static_cast<int>(thread % LANES), head = static_cast<int>(row % plan.heads);
  const int batch = static_cast<int>(position / padded), t = static_cast<int>(position % padded);
  const bool inside = batch < plan.batch && t < plan.sequence;
  float sum = 0;
  if (inside && chunk < D / 8) {
    const int64_t at = plan.o_offset(batch * plan.heads + head) + static_cast<int64_t>(t) * plan.hidden() + chunk * 8;
    const auto a = *reinterpret_cast<const Pack<T, 8>*>(d_o + at), b = *reinterpret_cast<const Pack<T, 8>*>(o + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(to_float(a.at[i]), to_float(b.at[i]), sum);
  }
#pragma unroll
  for (int mask = LANES / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  if (chunk == 0 && batch < plan.batch) {
    const int64_t pair = static_cast<int64_t>(batch) * plan.heads + head;
    exchange.statistics[pair * padded + t] =
        inside ? make_float2(lse[pair * plan.sequence + t] * -1.4426950408889634f, sum) : make_float2(-INFINITY, 0.0f);
  }
}

}  // namespace

Exchange prepare_backward(const Call& call, const Plan& plan, int queries, int parts) {
  const int tiles = divide_up(plan.sequence, queries), padded = tiles * queries;
  const int64_t rows = static_cast<int64_t>(plan.pairs()) * padded, flags = static_cast<int64_t>(plan.pairs()) * tiles * parts;
  Exchange exchange{};
  std::byte* at = call.workspace;
  exchange.statistics = reinterpret_cast<float2*>(at), at += rows * sizeof(float2);
  exchange.sums = reinterpret_cast<float4*>(at), at += plan.sequence > 128 ? rows * plan.size * sizeof(float) : 0;
  exchange.added = reinterpret_cast<unsigned*>(at), at += flags * sizeof(unsigned);
  exchange.ticket = reinterpret_cast<unsigned*>(at);
  with_mma_types(call.in(1).dtype, plan.size, [&]<class T, int D>() {
    const int64_t lanes = rows * (D <= 64 ? 8 : 16);
    launch(prepare<T, D>, dim3(static_cast<unsigned>((lanes + 255) / 256)), dim3(256), 0, call.stream, plan, exchange, padded, flags,
           call.in(0).as<const T>(), call.in(2).as<const T>(), call.in(3).as<const float>());
  });
  return exchange;
}

}  // namespace deeptroupe::gpu

#endif
