// Dropout with masks recomputed from Philox counters: nothing is stored, and the bits depend on no thread.
#include "check.h"
#include "philox.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Elements of one task, within one sample; a multiple of the 4 * VL that a vector of counters covers.
constexpr int64_t block = 16384;

template <class T>
void dropout(const Call& call) {
  const auto& attributes = call.attrs<abi::DropoutAttributes>();
  const T* x = data_of<T>("dropout", "x", call.in(0));
  const T* residual = data_of<T>("dropout", "residual", call.inputs[1]);
  T* y = data_of<T>("dropout", "y", call.out(0));
  const int64_t samples = call.in(0).rank ? call.in(0).dims[0] : 1;
  if (call.in(0).elements() == 0) return;
  const int64_t length = call.in(0).elements() / samples;
  const double p = attributes.p;
  const uint64_t seed = static_cast<uint64_t>(call.scalars[0]);
  const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const uint32_t op_id = static_cast<uint32_t>(attributes.op_id);
  const uint32_t step = static_cast<uint32_t>(static_cast<uint64_t>(call.scalars[1]));
  const uint32_t first_sample = static_cast<uint32_t>(static_cast<uint64_t>(call.scalars[2]));
  // With p = 1 the threshold 2^32 fits no word: every element is dropped.
  const vu threshold = vu{} + (p < 1 ? static_cast<uint32_t>(p * 0x1p32) : 0);
  const vi possible = splat_i(p < 1 ? -1 : 0);
  const vf factor = splat(static_cast<float>(1.0 / (1.0 - p)));
  const int64_t tasks = (length + block - 1) / block;
  each_block(call, samples * tasks, samples * length <= block ? samples * tasks : 1, [=](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t sample = task / tasks, from = task % tasks * block;
      const int64_t to = length - from < block ? length : from + block;
      const int64_t base = sample * length;
      for (int64_t i = from; i < to; i += 4 * VL) {
        const uint32_t counter[4] = {op_id, step, first_sample + static_cast<uint32_t>(sample), static_cast<uint32_t>(i / 4)};
        vu words[4];
        philox4x32_vector(counter, key, words);
        for (int u = 0; u < 4; ++u) {
          const int64_t at = i + u * VL;
          if (at >= to) break;
          const int n = lanes_left(to - at);
          vf v = select((words[u] >= threshold) & possible, load_part(x + base + at, n) * factor, vf{});
          if (residual) v += load_part(residual + base + at, n);
          store_part(y + base + at, v, n);
        }
      }
    }
  });
}

}  // namespace

void add_dropout(KernelTable& table) {
  add_kernel(table, abi::Opcode::dropout, [](const Call& call) {
    with_float("dropout", "x", call.in(0), [&]<class T>(TypeTag<T>) { dropout<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
