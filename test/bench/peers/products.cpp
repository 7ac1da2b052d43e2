// The matrix products of a linear layer by a library: `FORM DTYPE M N K REPETITIONS`, forms as in test/bench/products.ts,
// f32 or, with oneDNN, bf16.
// Prints one line of JSON for each repetition after one that warms up: {"seconds": s}.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#if defined(PEER_OPENBLAS)
#include <cblas-openblas.h>

/// c[m,n] = a b, where a is [m,k] or, transposed, [k,m], and b [k,n] or [n,k].
static void product(bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) {
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, a,
              ta ? m : k, b, tb ? k : n, 0.0f, c, n);
}
#else
#include <dnnl.hpp>

template <class T>
static void product(bool ta, bool tb, int m, int n, int k, const T* a, const T* b, T* c) {
  using namespace dnnl;
  static engine cpu(engine::kind::cpu, 0);
  static stream queue(cpu);
  static memory::desc left, right, result;
  static matmul primitive;
  static bool ready = false;
  if (!ready) {
    const auto type = sizeof(T) == 4 ? memory::data_type::f32 : memory::data_type::bf16;
    left = {{m, k}, type, ta ? memory::dims{1, m} : memory::dims{k, 1}};
    right = {{k, n}, type, tb ? memory::dims{1, k} : memory::dims{n, 1}};
    result = {{m, n}, type, memory::dims{n, 1}};
#if DNNL_VERSION_MAJOR >= 3
    primitive = matmul(matmul::primitive_desc(cpu, left, right, result));
#else
    primitive = matmul(matmul::primitive_desc(matmul::desc(left, right, result), cpu));
#endif
    ready = true;
  }
  primitive.execute(queue, {{DNNL_ARG_SRC, memory(left, cpu, const_cast<T*>(a))},
                            {DNNL_ARG_WEIGHTS, memory(right, cpu, const_cast<T*>(b))},
                            {DNNL_ARG_DST, memory(result, cpu, c)}});
  queue.wait();
}
#endif

/// A float, or its upper 16 bits as bf16.
template <class T>
static std::vector<T> noise(size_t count) {
  std::vector<T> values(count);
  unsigned state = 1;
  for (T& element : values) {
    state = state * 1664525u + 1013904223u;
    const float value = static_cast<float>(state) / 2147483648.0f - 1.0f;
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (sizeof(T) == 2) bits >>= 16;
    std::memcpy(&element, &bits, sizeof element);
  }
  return values;
}

template <class T>
static void time_product(bool ta, bool tb, int m, int n, int k, int repetitions) {
  const auto a = noise<T>(size_t(m) * k), b = noise<T>(size_t(k) * n);
  std::vector<T> c(size_t(m) * n);
  for (int i = 0; i <= repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    product(ta, tb, m, n, k, a.data(), b.data(), c.data());
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) std::printf("{\"seconds\": %.9f}\n", taken.count());
  }
}

int main(int argc, char** argv) {
  if (argc != 7) return std::fprintf(stderr, "products FORM DTYPE M N K REPETITIONS\n"), 2;
  const char *form = argv[1], *dtype = argv[2];
  const int M = std::atoi(argv[3]), N = std::atoi(argv[4]), K = std::atoi(argv[5]), repetitions = std::atoi(argv[6]);
  const bool forward = !std::strcmp(form, "forward"), input = !std::strcmp(form, "input_gradient");
  // forward: y[M,N] = x[M,K] w[N,K]^T; input gradient: dx[M,K] = dy[M,N] w[N,K]; weight gradient: dw[N,K] = dy[M,N]^T x[M,K].
  const int m = forward || input ? M : N, n = forward ? N : K, k = forward ? K : input ? N : M;
  if (!std::strcmp(dtype, "f32")) return time_product<float>(!forward && !input, forward, m, n, k, repetitions), 0;
#if defined(PEER_ONEDNN)
  if (!std::strcmp(dtype, "bf16")) return time_product<unsigned short>(!forward && !input, forward, m, n, k, repetitions), 0;
#endif
  return std::fprintf(stderr, "products: dtype %s, expected one that the library has\n", dtype), 2;
}
