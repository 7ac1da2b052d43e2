// The matrix products of a linear layer by a library: `FORM M N K REPETITIONS`, forms as in test/bench/products.ts.
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

static void product(bool ta, bool tb, int m, int n, int k, const float* a, const float* b, float* c) {
  using namespace dnnl;
  static engine cpu(engine::kind::cpu, 0);
  static stream queue(cpu);
  static memory::desc left, right, result;
  static matmul primitive;
  static bool ready = false;
  if (!ready) {
    const auto f32 = memory::data_type::f32;
    left = {{m, k}, f32, ta ? memory::dims{1, m} : memory::dims{k, 1}};
    right = {{k, n}, f32, tb ? memory::dims{1, k} : memory::dims{n, 1}};
    result = {{m, n}, f32, memory::dims{n, 1}};
#if DNNL_VERSION_MAJOR >= 3
    primitive = matmul(matmul::primitive_desc(cpu, left, right, result));
#else
    primitive = matmul(matmul::primitive_desc(matmul::desc(left, right, result), cpu));
#endif
    ready = true;
  }
  primitive.execute(queue, {{DNNL_ARG_SRC, memory(left, cpu, const_cast<float*>(a))},
                            {DNNL_ARG_WEIGHTS, memory(right, cpu, const_cast<float*>(b))},
                            {DNNL_ARG_DST, memory(result, cpu, c)}});
  queue.wait();
}
#endif

static std::vector<float> noise(size_t count) {
  std::vector<float> values(count);
  unsigned state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state) / 2147483648.0f - 1.0f;
  }
  return values;
}

int main(int argc, char** argv) {
  if (argc != 6) return std::fprintf(stderr, "products FORM M N K REPETITIONS\n"), 2;
  const char* form = argv[1];
  const int M = std::atoi(argv[2]), N = std::atoi(argv[3]), K = std::atoi(argv[4]), repetitions = std::atoi(argv[5]);
  const bool forward = !std::strcmp(form, "forward"), input = !std::strcmp(form, "input_gradient");
  // forward: y[M,N] = x[M,K] w[N,K]^T; input gradient: dx[M,K] = dy[M,N] w[N,K]; weight gradient: dw[N,K] = dy[M,N]^T x[M,K].
  const int m = forward || input ? M : N, n = forward ? N : K, k = forward ? K : input ? N : M;
  const auto a = noise(size_t(m) * k), b = noise(size_t(k) * n);
  std::vector<float> c(size_t(m) * n);
  for (int i = 0; i <= repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    product(!forward && !input, forward, m, n, k, a.data(), b.data(), c.data());
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (i > 0) std::printf("{\"seconds\": %.9f}\n", taken.count());
  }
}
