// Sums, products, conversions, copies and sums over leading dims: each reads and writes its operands once.
#include "columns.h"
#include "each.h"

namespace deeptroupe::gpu {

namespace {

struct Plus {
  __device__ static float of(float a, float b) { return a + b; }
};
struct Times {
  __device__ static float of(float a, float b) { return a * b; }
};

/// y[i] = F(a[i], b[i mod period]), a and y of A.
template <class A, class B, class F>
struct Binary {
  static constexpr int held = 2;
  const A* a;
  const B* b;
  A* y;
  int64_t count, period;

  template <int N>
  struct Held {
    Pack<A, N> a;
    Pack<B, N> b;
  };

  template <int N>
  __device__ void load(int64_t at, Held<N>& pack) const {
    pack.a = load_pack<N>(a + at);
    pack.b = load_pack<N>(b + (period == count ? at : remainder_of(at, period)));
  }
  template <int N>
  __device__ void store(int64_t at, const Held<N>& pack) const {
    float v[N], w[N];
    widen(pack.a, v);
    widen(pack.b, w);
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] = F::of(v[n], w[n]);
    store_pack(y + at, narrow<A>(v));
  }
};

template <class A, class B, class F>
void binary(const Call& call, const char* op) {
  const A* a = data_of<A>(op, "a", call.in(0));
  const B* b = data_of<B>(op, "b", call.in(1));
  A* y = data_of<A>(op, "y", call.out(0));
  const int64_t count = call.in(0).elements(), period = call.in(1).elements();
  constexpr int N = per_pack<A> < per_pack<B> ? per_pack<A> : per_pack<B>;
  each<N>(op, call, count, period % N == 0 && aligned(16, a, b, y), Binary<A, B, F>{a, b, y, count, period});
}

template <class T>
struct Scale : Unary<T> {
  T* y;
  float factor;

  template <int N>
  __device__ void store(int64_t at, const Pack<T, N>& pack) const {
    float v[N];
    widen(pack, v);
#pragma unroll
    for (int n = 0; n < N; ++n) v[n] *= factor;
    store_pack(y + at, narrow<T>(v));
  }
};

template <class T>
void scale(const Call& call) {
  const T* x = data_of<T>("scale", "x", call.in(0));
  T* y = data_of<T>("scale", "y", call.out(0));
  const float factor = static_cast<float>(call.attrs<abi::ScaleAttributes>().factor);
  each<per_pack<T>>("scale", call, call.in(0).elements(), aligned(16, x, y), Scale<T>{{x}, y, factor});
}

/// The float that keeps a second rounding, to 16 bits, from going wrong: rounded to odd (Boldo and Melquiond, 2008).
__device__ inline float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (x != x || static_cast<double>(nearest) == x) return nearest;
  uint32_t bits = __float_as_uint(nearest);
  if (fabs(static_cast<double>(nearest)) > fabs(x)) --bits;
  return __uint_as_float(bits | 1u);
}

template <class To, class From>
__device__ inline To converted(From x) {
  if constexpr (std::is_same_v<To, double>) return static_cast<double>(to_float(x));
  else if constexpr (std::is_same_v<From, double> && !std::is_same_v<To, float>) return from_float<To>(round_to_odd(x));
  else return from_float<To>(to_float(x));
}

template <class From, class To>
struct Cast : Unary<From> {
  To* y;

  template <int N>
  __device__ void store(int64_t at, const Pack<From, N>& pack) const {
    if constexpr (std::is_same_v<From, double> || std::is_same_v<To, double>) {
      Pack<To, N> result;
#pragma unroll
      for (int n = 0; n < N; ++n) result.at[n] = converted<To>(pack.at[n]);
      store_pack(y + at, result);
    } else {
      float v[N];
      widen(pack, v);
      store_pack(y + at, narrow<To>(v));
    }
  }
};

/// Elements of `T`'s size as they are.
template <class T>
struct Copy : Unary<T> {
  T* y;

  template <int N>
  __device__ void store(int64_t at, const Pack<T, N>& pack) const {
    store_pack(y + at, pack);
  }
};

template <class T>
void copy_elements(const Call& call) {
  const T* x = call.in(0).as<T>();
  T* y = call.out(0).as<T>();
  if (x == y) return;
  each<per_pack<T>>("copy", call, call.in(0).elements(), aligned(16, x, y), Copy<T>{{x}, y});
}

void copy(const Call& call) {
  switch (dtype_size(call.in(0).dtype)) {
    case 1: return copy_elements<uint8_t>(call);
    case 2: return copy_elements<uint16_t>(call);
    case 4: return copy_elements<uint32_t>(call);
    default: return copy_elements<uint64_t>(call);
  }
}

/// As with_float, and f64.
template <class F>
void with_any_float(DType dtype, F&& f) {
  if (dtype == DType::f64) return f(double{});
  with_float(dtype, f);
}

void cast(const Call& call) {
  if (call.in(0).dtype == call.out(0).dtype) return copy(call);
  with_any_float(call.in(0).dtype, [&]<class From>(From) {
    with_any_float(call.out(0).dtype, [&]<class To>(To) {
      if constexpr (!std::is_same_v<From, To>) {
        const From* x = call.in(0).as<From>();
        To* y = call.out(0).as<To>();
        constexpr int N = per_pack<From> < per_pack<To> ? per_pack<From> : per_pack<To>;
        each<N>("cast", call, call.in(0).elements(), aligned(16, x, y), Cast<From, To>{{x}, y});
      }
    });
  });
}

/// Rows of one chunk of sum_leading, and warps that share its rows.
constexpr int64_t sum_rows = 256;
constexpr int sum_warps = 8;

/// Of one chunk of rows and 32 * N columns: each warp adds a run of rows in order, then the runs' sums are added in order. Results of
/// one chunk alone go to `sum`, else to `partial`.
template <class T, class O, int N>
__global__ __launch_bounds__(warp* sum_warps) void sum_kernel(const T* x, float* partial, O* sum, const int64_t rows, const int64_t width,
                                                              const int64_t tiles) {
  __shared__ float sums[sum_warps][warp * N];
  const int64_t tile = blockIdx.x % tiles, chunk = blockIdx.x / tiles;
  const int lane = threadIdx.x % warp, run = threadIdx.x / warp;
  const int64_t column = (tile * warp + lane) * N, first = chunk * sum_rows;
  const int count = static_cast<int>(rows - first < sum_rows ? rows - first : sum_rows);
  const int share = static_cast<int>((rows < sum_rows ? rows : sum_rows) + sum_warps - 1) / sum_warps;
  const int begin = run * share, end = begin + share < count ? begin + share : count;
  float total[N] = {};
  if (column < width) {
    const T* from = x + first * width + column;
#pragma unroll 8
    for (int row = begin; row < end; ++row) {
      float v[N];
      load_floats(from + row * width, v);
#pragma unroll
      for (int n = 0; n < N; ++n) total[n] += v[n];
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n) sums[run][lane * N + n] = total[n];
  __syncthreads();
  const int64_t own = tile * warp * N + threadIdx.x;
  if (threadIdx.x >= warp * N || own >= width) return;
  float all = sums[0][threadIdx.x];
#pragma unroll
  for (int other = 1; other < sum_warps; ++other) all += sums[other][threadIdx.x];
  if (sum) sum[own] = from_float<O>(all);
  else partial[chunk * width + own] = all;
}

/// Rows of T to a sum of O, in f32 between.
template <class T, class O>
void sum_leading(const Call& call) {
  constexpr const char* op = "sum_leading";
  const T* x = data_of<T>(op, "x", call.in(0));
  O* sum = data_of<O>(op, "sum", call.out(0));
  const int64_t width = call.out(0).elements();
  if (width == 0) return;
  const int64_t rows = call.in(0).elements() / width, chunks = blocks_of(rows, sum_rows);
  float* partial = reinterpret_cast<float*>(call.workspace);
  if (chunks > 1) need_workspace(op, call, sizeof(float) * chunks * width);
  const auto chunk_sums = [&]<int N>(std::integral_constant<int, N>) {
    const int64_t tiles = blocks_of(width, warp * N);
    launch(sum_kernel<T, O, N>, grid_of(op, tiles * chunks), warp * sum_warps, 0, call.stream, x, partial, chunks == 1 ? sum : nullptr, rows, width,
           tiles);
  };
  constexpr int N = per_pack<T>;
  if (chunks > 0 && width % N == 0 && aligned(16, x)) chunk_sums(std::integral_constant<int, N>{});
  else if (chunks > 0) chunk_sums(std::integral_constant<int, 1>{});
  if (chunks != 1) total<O>(op, call, partial, chunks, {width, 1, {sum, nullptr, nullptr}});
}

}  // namespace

void add_elementwise(KernelTable& table) {
  table.add(abi::Opcode::add, [](const Call& call) {
    with_float(call.in(1).dtype, [&]<class B>(B) {
      if (call.in(0).dtype == dtype_of<B>) binary<B, B, Plus>(call, "add");
      else binary<float, B, Plus>(call, "add");
    });
  });
  table.add(abi::Opcode::multiply, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { binary<T, T, Times>(call, "multiply"); });
  });
  table.add(abi::Opcode::scale, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) { scale<T>(call); });
  });
  table.add(abi::Opcode::cast, cast);
  table.add(abi::Opcode::copy, copy);
  table.add(abi::Opcode::sum_leading, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class T>(T) {
      with_gradient<T>("sum_leading", "sum", &call.out(0), [&]<class O>(O) { sum_leading<T, O>(call); });
    });
  });
}

}  // namespace deeptroupe::gpu
