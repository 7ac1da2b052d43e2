// Activations and their gradients over whole tensors.
#include "activation.h"

#include "each.h"

namespace deeptroupe::gpu {

namespace {

template <class T, int kind>
struct Activation {
  static constexpr int held = 4;
  const T* x;
  T* y;

  template <int N>
  using Held = Pack<T, N>;

  template <int N>
  __device__ void load(int64_t at, Pack<T, N>& pack) const {
    pack = load_pack<N>(x + at);
  }
  template <int N>
  __device__ void store(int64_t at, const Pack<T, N>& pack) const {
    float v[N];
    widen(pack, v);
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = activate<kind>(v[n]);
    store_pack(y + at, narrow<T>(v));
  }
};

template <class T, int kind>
struct ActivationBackward {
  static constexpr int held = 2;
  const T* dy;
  const T* x;
  T* dx;

  template <int N>
  struct Held {
    Pack<T, N> dy, x;
  };

  template <int N>
  __device__ void load(int64_t at, Held<N>& pack) const {
    pack.dy = load_pack<N>(dy + at);
    pack.x = load_pack<N>(x + at);
  }
  template <int N>
  __device__ void store(int64_t at, const Held<N>& pack) const {
    float g[N], v[N];
    widen(pack.dy, g);
    widen(pack.x, v);
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = g[n] * activate_gradient<kind>(v[n]);
    store_pack(dx + at, narrow<T>(v));
  }
};

template <class T>
void activation(const Call& call) {
  constexpr const char* op = "activation";
  const T* x = data_of<T>(op, "x", call.in(0));
  T* y = data_of<T>(op, "y", call.out(0));
  with_kind(op, call.attrs<abi::ActivationAttributes>().kind, [&]<int kind>(std::integral_constant<int, kind>) {
    each<per_pack<T>>(op, call, call.in(0).elements(), aligned(16, x, y), Activation<T, kind>{x, y});
  });
}

template <class T>
void activation_backward(const Call& call) {
  constexpr const char* op = "activation_backward";
  const T* dy = data_of<T>(op, "dy", call.in(0));
  const T* x = data_of<T>(op, "x", call.in(1));
  T* dx = data_of<T>(op, "dx", call.out(0));
  with_kind(op, call.attrs<abi::ActivationBackwardAttributes>().kind, [&]<int kind>(std::integral_constant<int, kind>) {
    each<per_pack<T>>(op, call, call.in(0).elements(), aligned(16, dy, x, dx), ActivationBackward<T, kind>{dy, x, dx});
  });
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
