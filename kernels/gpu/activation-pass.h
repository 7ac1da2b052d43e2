// Activations and their gradients over whole tensors, for activation.cu and for the products that go on with one.
#pragma once

#include "activation.h"
#include "each.h"

namespace deeptroupe::gpu {

template <class T, int kind>
struct Activation : Unary<T> {
  T* y;

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

/// y = f(x); y may be x.
template <class T>
void enqueue_activation(const char* op, const Call& call, int64_t kind_number, int64_t count, const T* x, T* y) {
  with_kind(op, kind_number, [&]<int kind>(std::integral_constant<int, kind>) {
    each<per_pack<T>>(op, call, count, aligned(16, x, y), Activation<T, kind>{{x}, y});
  });
}

/// dx = dy * f'(x); dx may be dy or x.
template <class T>
void enqueue_activation_backward(const char* op, const Call& call, int64_t kind_number, int64_t count, const T* dy, const T* x, T* dx) {
  with_kind(op, kind_number, [&]<int kind>(std::integral_constant<int, kind>) {
    each<per_pack<T>>(op, call, count, aligned(16, dy, x, dx), ActivationBackward<T, kind>{dy, x, dx});
  });
}

}  // namespace deeptroupe::gpu
