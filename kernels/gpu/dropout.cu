// Dropout with masks recomputed from Philox counters: nothing is stored, and the bits are those of kernels/cpu/dropout.cpp.
#include "../abi/random.h"
#include "each.h"

namespace deeptroupe::gpu {

namespace {

template <class T>
struct Dropout {
  static constexpr int held = 2;
  const T* x;
  const T* residual;
  T* y;
  const double* seed;
  const double* step;
  const double* sample;
  /// Elements of one sample.
  int64_t length;
  uint32_t op_id, threshold;
  /// With p = 1 no word is large enough.
  bool possible;
  float factor;

  template <int N>
  struct Held {
    Pack<T, N> x, residual;
  };

  template <int N>
  __device__ void load(int64_t at, Held<N>& pack) const {
    pack.x = load_pack<N>(x + at);
    if (residual) pack.residual = load_pack<N>(residual + at);
  }
  template <int N>
  __device__ void store(int64_t at, const Held<N>& pack) const {
    const uint64_t seed_bits = static_cast<uint64_t>(*seed);
    const uint32_t key[2] = {static_cast<uint32_t>(seed_bits), static_cast<uint32_t>(seed_bits >> 32)};
    const int64_t own_sample = quotient_of(at, length), element = at - own_sample * length;
    uint32_t counter[4] = {op_id, static_cast<uint32_t>(static_cast<uint64_t>(*step)),
                           static_cast<uint32_t>(static_cast<uint64_t>(*sample)) + static_cast<uint32_t>(own_sample),
                           static_cast<uint32_t>(element / 4)};
    float v[N], r[N];
    widen(pack.x, v);
    if (residual) widen(pack.residual, r);
    uint32_t words[4];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      if (n % 4 == 0) {
        philox4x32(counter, key, words);
        ++counter[3];
      }
      uint32_t word = words[n % 4];
      if (N == 1) {
        const int own = static_cast<int>(element % 4);
        word = own == 0 ? words[0] : own == 1 ? words[1] : own == 2 ? words[2] : words[3];
      }
      v[n] = possible && word >= threshold ? v[n] * factor : 0.0f;
      if (residual) v[n] += r[n];
    }
    store_pack(y + at, narrow<T>(v));
  }
};

template <class T>
void dropout(const Call& call) {
  constexpr const char* op = "dropout";
  const auto& attributes = call.attrs<abi::DropoutAttributes>();
  const T* x = data_of<T>(op, "x", call.in(0));
  const T* residual = data_of<T>(op, "residual", call.inputs[1]);
  T* y = data_of<T>(op, "y", call.out(0));
  const int64_t count = call.in(0).elements();
  if (count == 0) return;
  const int64_t length = count / (call.in(0).rank ? call.in(0).dims[0] : 1);
  const double p = attributes.p;
  const Dropout<T> body{x,
                        residual,
                        y,
                        call.scalars[0],
                        call.scalars[1],
                        call.scalars[2],
                        length,
                        static_cast<uint32_t>(attributes.op_id),
                        p < 1 ? static_cast<uint32_t>(p * 0x1p32) : 0,
                        p < 1,
                        static_cast<float>(1.0 / (1.0 - p))};
  constexpr int N = per_pack<T>;
  each<N>(op, call, count, length % N == 0 && aligned(16, x, residual, y), body);
}

}  // namespace

void add_dropout(KernelTable& table) {
  table.add(abi::Opcode::dropout, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { dropout<T>(call); });
  });
}

}  // namespace deeptroupe::gpu
