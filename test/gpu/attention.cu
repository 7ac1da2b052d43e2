// Checks the GPU's attention against a plain one in float64 and measures it. Prints one JSON object a line; exits with 1 where a check
// failed. `--check` leaves the measurement out, `--small` the checks of long sequences too, `--measure` all checks.
//   nvcc -std=c++20 -O3 -fmad=false -gencode=arch=compute_90a,code=sm_90a -o attention test/gpu/attention.cu kernels/gpu/attention*.cu
// Every case starts from random operands and poisoned outputs and workspace, looks for writes beyond the outputs, and runs twice:
// the bits must be equal.
#include "../../kernels/gpu/kernel.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

using namespace deeptroupe;
using namespace deeptroupe::gpu;

namespace {

struct Case {
  int batch, sequence, heads, size;
  DType dtype;
  bool causal;
  double dropout;
  /// Rows of each result that are compared; 0: all.
  int sampled;
};

int64_t bytes_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }
const char* name_of(DType dtype) { return abi::dtype_names[static_cast<int>(dtype)]; }
/// Unit roundoff.
double unit(DType dtype) { return dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }

float read(const void* from, DType dtype, int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(from)[i];
  if (dtype == DType::f16) return __half2float(static_cast<const f16*>(from)[i]);
  return __bfloat162float(static_cast<const bf16*>(from)[i]);
}

void write(void* to, DType dtype, int64_t i, float x) {
  if (dtype == DType::f32) static_cast<float*>(to)[i] = x;
  else if (dtype == DType::f16) static_cast<f16*>(to)[i] = __float2half(x);
  else static_cast<bf16*>(to)[i] = __float2bfloat16(x);
}

/// Device memory with a guarded end.
class Buffer {
 public:
  static constexpr size_t guard = 4096;
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes + guard), "allocation");
    poison();
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  /// Every 16-bit or 32-bit float becomes NaN.
  void poison() { check(cudaMemset(data_, 0xff, bytes_ + guard), "fill"); }
  void upload(const std::vector<char>& from) { check(cudaMemcpy(data_, from.data(), from.size(), cudaMemcpyHostToDevice), "copy"); }
  std::vector<char> download() const {
    std::vector<char> to(bytes_);
    check(cudaMemcpy(to.data(), data_, bytes_, cudaMemcpyDeviceToHost), "copy");
    return to;
  }
  bool guarded() const {
    std::vector<unsigned char> end(guard);
    check(cudaMemcpy(end.data(), data_ + bytes_, guard, cudaMemcpyDeviceToHost), "copy");
    return std::all_of(end.begin(), end.end(), [](unsigned char c) { return c == 0xff; });
  }
  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  size_t bytes_;
};

Properties properties() {
  int device = 0;
  check(cudaGetDevice(&device), "device");
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "attribute of the device");
    return value;
  };
  Properties p;
  p.major = attribute(cudaDevAttrComputeCapabilityMajor), p.minor = attribute(cudaDevAttrComputeCapabilityMinor);
  p.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  p.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), p.l2_bytes = attribute(cudaDevAttrL2CacheSize);
  return p;
}

/// Bytes that kernels/gpu/workspace.ts asks for.
size_t workspace_of(const Case& c) {
  const size_t pairs = static_cast<size_t>(c.batch) * c.heads, tiles = (c.sequence + 127) / 128;
  if (c.dtype == DType::f32 || !(c.size == 64 || c.size == 80 || c.size == 96 || c.size == 128)) return 4 * pairs * c.sequence;
  return pairs * tiles * (128 * 8 + 2 * 8 * 4 + (c.sequence > 128 ? size_t{128} * 4 * c.size : 0)) + 4;
}

/// One case's operands and results on the device, and the two calls.
class Run {
 public:
  explicit Run(const Case& c, const Properties& device)
      : c(c), device_(device), positions(static_cast<int64_t>(c.batch) * c.sequence), hidden(c.heads * c.size), width(3 * hidden),
        qkv(positions * width * bytes_of(c.dtype)), o(positions * hidden * bytes_of(c.dtype)), lse(4 * positions * c.heads),
        d_o(o.bytes()), dqkv(qkv.bytes()), workspace(workspace_of(c)), scalars_(3 * sizeof(double)) {
    std::vector<char> values(scalars_.bytes());
    const double numbers[3] = {seed, step, sample};
    std::memcpy(values.data(), numbers, sizeof numbers);
    scalars_.upload(values);
    for (int i = 0; i < 3; ++i) scalar_addresses_[i] = reinterpret_cast<const double*>(scalars_.data()) + i;
    add_attention(table_);
  }

  static constexpr double seed = 1099511640121.0, step = 7, sample = 11;
  static constexpr int64_t op_id = 5;

  double scale() const { return 1 / std::sqrt(static_cast<double>(c.size)); }
  void forward() { call(abi::Opcode::attention, {&qkv}, {&o, &lse}); }
  void backward() { call(abi::Opcode::attention_backward, {&d_o, &qkv, &o, &lse}, {&dqkv}); }

 private:
  void call(abi::Opcode opcode, std::vector<const Buffer*> in, std::vector<const Buffer*> out) {
    const auto tensor = [&](const Buffer* b) {
      Tensor t{b->data(), b == &lse ? DType::f32 : c.dtype, 3, {c.batch, c.sequence, b == &qkv || b == &dqkv ? width : hidden}};
      if (b == &lse) t.dims[1] = c.heads, t.dims[2] = c.sequence;
      return t;
    };
    std::vector<Tensor> tensors;
    for (const Buffer* b : in) tensors.push_back(tensor(b));
    for (const Buffer* b : out) tensors.push_back(tensor(b));
    std::vector<const Tensor*> addresses;
    for (const Tensor& t : tensors) addresses.push_back(&t);
    const abi::AttentionAttributes attributes{c.heads, c.causal, scale(), c.dropout, op_id};
    Call call{};
    call.inputs = addresses.data(), call.outputs = addresses.data() + in.size();
    call.attributes = &attributes, call.scalars = scalar_addresses_;
    call.workspace = reinterpret_cast<std::byte*>(workspace.data()), call.workspace_bytes = workspace.bytes();
    call.device = &device_, call.ranks = 1;
    table_.kernels[static_cast<int>(opcode)](call);
  }

 public:
  const Case c;

 private:
  const Properties device_;

 public:
  const int64_t positions, hidden, width;
  Buffer qkv, o, lse, d_o, dqkv, workspace;

 private:
  Buffer scalars_;
  const double* scalar_addresses_[3];
  KernelTable table_{};
};

/// Dropout's choice by its definition (kernels/ops/dropout.ts).
bool kept(const Case& c, int batch, uint64_t element) {
  const uint64_t seed = static_cast<uint64_t>(Run::seed);
  uint64_t k0 = seed & 0xffffffff, k1 = seed >> 32;
  uint64_t n[4] = {Run::op_id, static_cast<uint64_t>(Run::step), static_cast<uint64_t>(Run::sample) + batch, element / 4 & 0xffffffff};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53 * n[0], p1 = 0xCD9E8D57 * n[2];
    const uint64_t next[4] = {(p1 >> 32) ^ n[1] ^ k0, p1 & 0xffffffff, (p0 >> 32) ^ n[3] ^ k1, p0 & 0xffffffff};
    std::copy(next, next + 4, n);
    k0 = (k0 + 0x9E3779B9) & 0xffffffff, k1 = (k1 + 0xBB67AE85) & 0xffffffff;
  }
  return static_cast<double>(n[element % 4]) >= std::floor(c.dropout * 0x1p32);
}

/// A number and the sum of the magnitudes of its terms.
struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) { value += term, magnitude += std::fabs(term); }
  void add(double term, double size) { value += term, magnitude += size; }
};

/// Attention by its definition, row by row, in float64, from operands as the device got them.
class Reference {
 public:
  Reference(const Run& run, const std::vector<char>& qkv, const std::vector<char>& d_o)
      : run_(run), c(run.c), qkv_(widen(qkv)), d_o_(widen(d_o)) {}
  /// Backward starts from what forward stored.
  void results(const std::vector<char>& o, const std::vector<char>& lse) {
    o_ = widen(o);
    lse_.resize(lse.size() / 4);
    std::memcpy(lse_.data(), lse.data(), lse.size());
  }

  const double* q(int b, int h, int t) const { return &qkv_[(static_cast<int64_t>(b) * c.sequence + t) * run_.width + h * c.size]; }
  const double* k(int b, int h, int t) const { return q(b, h, t) + run_.hidden; }
  const double* v(int b, int h, int t) const { return k(b, h, t) + run_.hidden; }
  int64_t out(int b, int h, int t) const { return (static_cast<int64_t>(b) * c.sequence + t) * run_.hidden + h * c.size; }
  int64_t pair_row(int b, int h, int t) const { return (static_cast<int64_t>(b) * c.heads + h) * c.sequence + t; }

  double dot(const double* a, const double* b) const {
    double sum = 0;
    for (int d = 0; d < c.size; ++d) sum += a[d] * b[d];
    return sum;
  }
  double factor(int b, int h, int query, int key) const {
    if (c.dropout == 0) return 1;
    const uint64_t element = (static_cast<uint64_t>(h) * c.sequence + query) * c.sequence + key;
    return kept(c, b, element) ? 1 / (1 - c.dropout) : 0;
  }
  int visible(int query) const { return c.causal ? query + 1 : c.sequence; }

  double forward(int b, int h, int t, std::vector<Sum>& o) const {
    std::vector<double> scores(visible(t));
    double top = -INFINITY, total = 0;
    for (int s = 0; s < visible(t); ++s) top = std::max(top, scores[s] = run_.scale() * dot(q(b, h, t), k(b, h, s)));
    for (double score : scores) total += std::exp(score - top);
    o.assign(c.size, {});
    for (int s = 0; s < visible(t); ++s) {
      const double p = std::exp(scores[s] - top) / total * factor(b, h, t, s);
      for (int d = 0; d < c.size; ++d) o[d].add(p * v(b, h, s)[d]);
    }
    return top + std::log(total);
  }

  struct Pair {
    double dropped, ds, ds_magnitude;
  };
  Pair pair(int b, int h, int t, int s) const {
    const double* d_out = &d_o_[out(b, h, t)];
    const double p = std::exp(run_.scale() * dot(q(b, h, t), k(b, h, s)) - lse_[pair_row(b, h, t)]), f = factor(b, h, t, s);
    const double dp = f * dot(d_out, v(b, h, s)), delta = dot(d_out, &o_[out(b, h, t)]);
    return {p * f, p * (dp - delta) * run_.scale(), p * (std::fabs(dp) + std::fabs(delta)) * run_.scale()};
  }
  void query_gradient(int b, int h, int t, std::vector<Sum>& dq) const {
    dq.assign(c.size, {});
    for (int s = 0; s < visible(t); ++s) {
      const Pair x = pair(b, h, t, s);
      for (int d = 0; d < c.size; ++d) dq[d].add(x.ds * k(b, h, s)[d], x.ds_magnitude * std::fabs(k(b, h, s)[d]));
    }
  }
  void key_gradients(int b, int h, int s, std::vector<Sum>& dk, std::vector<Sum>& dv) const {
    dk.assign(c.size, {}), dv.assign(c.size, {});
    for (int t = c.causal ? s : 0; t < c.sequence; ++t) {
      const Pair x = pair(b, h, t, s);
      for (int d = 0; d < c.size; ++d) {
        dk[d].add(x.ds * q(b, h, t)[d], x.ds_magnitude * std::fabs(q(b, h, t)[d]));
        dv[d].add(x.dropped * d_o_[out(b, h, t) + d]);
      }
    }
  }

 private:
  std::vector<double> widen(const std::vector<char>& from) const {
    std::vector<double> to(from.size() / bytes_of(c.dtype));
    for (size_t i = 0; i < to.size(); ++i) to[i] = read(from.data(), c.dtype, static_cast<int64_t>(i));
    return to;
  }

  const Run& run_;
  const Case& c;
  std::vector<double> qkv_, d_o_, o_;
  std::vector<float> lse_;
};

/// Numbers drawn from a table of normal ones, which is quicker than to make each.
std::vector<char> normal(std::mt19937_64& random, int64_t count, DType dtype) {
  std::vector<float> table(1 << 16);
  std::normal_distribution<float> distribution;
  for (float& x : table) x = distribution(random);
  std::vector<char> to(count * bytes_of(dtype));
  uint64_t state = random();
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    write(to.data(), dtype, i, table[state >> 48]);
  }
  return to;
}

/// The worst error of a result against its bound: at most 1 where all is well.
struct Worst {
  double ratio = 0;
  void compare(double got, double expected, double bound) {
    const double here = std::fabs(got - expected) / bound;
    if (!(here <= ratio)) ratio = std::isnan(here) ? INFINITY : here;
  }
};

bool check_case(const Case& c, const Properties& device) {
  std::mt19937_64 random(c.sequence * 131 + c.size * 7 + c.heads);
  Run run(c, device);
  const std::vector<char> qkv = normal(random, run.positions * run.width, c.dtype);
  const std::vector<char> d_o = normal(random, run.positions * run.hidden, c.dtype);
  run.qkv.upload(qkv), run.d_o.upload(d_o);
  const auto both = [&] {
    for (Buffer* b : {&run.o, &run.lse, &run.dqkv, &run.workspace}) b->poison();
    run.forward(), run.backward();
    check(cudaDeviceSynchronize(), "run");
  };
  both();
  const std::vector<char> o = run.o.download(), lse = run.lse.download(), dqkv = run.dqkv.download();
  both();
  const bool equal = o == run.o.download() && lse == run.lse.download() && dqkv == run.dqkv.download();
  bool guarded = true;
  for (const Buffer* b : {&run.qkv, &run.o, &run.lse, &run.d_o, &run.dqkv, &run.workspace}) guarded = guarded && b->guarded();
  const bool intact = qkv == run.qkv.download() && d_o == run.d_o.download();

  Reference reference(run, qkv, d_o);
  reference.results(o, lse);
  // Of 16 bits, probabilities and gradients of scores are rounded as operands, and every result is; sums are in f32.
  const double u = unit(c.dtype), u32 = 0x1p-24;
  const double exponent = u32 * (8 + 2 * std::sqrt(c.size)) * (1 + 2 * std::sqrt(static_cast<double>(c.size)));
  const double relative = (c.dtype == DType::f32 ? 0 : u) + exponent + u32 * (8 + 2 * std::sqrt(c.sequence));
  const double tiny = c.dtype == DType::f16 ? 0x1p-24 * 64 : 1e-30;
  const auto bound = [&](const Sum& sum) { return 1.01 * (relative * sum.magnitude + u * std::fabs(sum.value)) + tiny; };
  Worst worst_o, worst_lse, worst_q, worst_k, worst_v;
  const int64_t rows = static_cast<int64_t>(c.batch) * c.heads * c.sequence;
  const auto dqkv_at = [&](int b, int h, int t, int part) {
    return (static_cast<int64_t>(b) * c.sequence + t) * run.width + part * run.hidden + h * c.size;
  };
  const auto compare_row = [&](Worst& worst, const std::vector<char>& got, int64_t at, const std::vector<Sum>& expected) {
    for (int d = 0; d < c.size; ++d) worst.compare(read(got.data(), c.dtype, at + d), expected[d].value, bound(expected[d]));
  };
  for (int64_t i = 0; i < (c.sampled ? c.sampled : rows); ++i) {
    // The first and the last rows are always among the sampled ones.
    const int64_t row = !c.sampled || i < 2 ? i : i < 4 ? rows - i + 1 : static_cast<int64_t>(random() % rows);
    const int t = static_cast<int>(row % c.sequence), h = static_cast<int>(row / c.sequence % c.heads);
    const int b = static_cast<int>(row / c.sequence / c.heads);
    std::vector<Sum> expected, dv;
    const double row_lse = reference.forward(b, h, t, expected);
    compare_row(worst_o, o, reference.out(b, h, t), expected);
    worst_lse.compare(reinterpret_cast<const float*>(lse.data())[reference.pair_row(b, h, t)], row_lse,
                      exponent + u32 * (8 + 2 * std::sqrt(c.sequence)) + 2 * u32 * std::fabs(row_lse));
    reference.query_gradient(b, h, t, expected);
    compare_row(worst_q, dqkv, dqkv_at(b, h, t, 0), expected);
    reference.key_gradients(b, h, t, expected, dv);
    compare_row(worst_k, dqkv, dqkv_at(b, h, t, 1), expected);
    compare_row(worst_v, dqkv, dqkv_at(b, h, t, 2), dv);
  }
  const double worst = std::max({worst_o.ratio, worst_lse.ratio, worst_q.ratio, worst_k.ratio, worst_v.ratio});
  const bool right = worst <= 1 && equal && guarded && intact;
  std::printf(
      "{\"check\":\"attention\",\"right\":%s,\"shape\":[%d,%d,%d,%d],\"dtype\":\"%s\",\"causal\":%s,\"dropout\":%g,\"error_over_bound\":"
      "{\"o\":%.3g,\"lse\":%.3g,\"dq\":%.3g,\"dk\":%.3g,\"dv\":%.3g},\"bits_equal\":%s,\"guarded\":%s,\"inputs_intact\":%s}\n",
      right ? "true" : "false", c.batch, c.sequence, c.heads, c.size, name_of(c.dtype), c.causal ? "true" : "false", c.dropout, worst_o.ratio,
      worst_lse.ratio, worst_q.ratio, worst_k.ratio, worst_v.ratio, equal ? "true" : "false", guarded ? "true" : "false", intact ? "true" : "false");
  std::fflush(stdout);
  return right;
}

double median_ms(int repeats, void (Run::*call)(), Run& run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = -3; i < repeats; ++i) {
    check(cudaEventRecord(begin, nullptr), "event");
    (run.*call)();
    check(cudaEventRecord(end, nullptr), "event");
    check(cudaEventSynchronize(end), "event");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (i >= 0) times.push_back(ms);
  }
  check(cudaEventDestroy(begin), "event"), check(cudaEventDestroy(end), "event");
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// Rates count half of the products, as causal attention needs them, and 2.5 times the forward's for backward.
void measure(int sequence, int size, DType dtype, double dropout, const Properties& device) {
  const Case c{16384 / sequence, sequence, 2048 / size, size, dtype, true, dropout, 0};
  std::mt19937_64 random(7);
  Run run(c, device);
  run.qkv.upload(normal(random, run.positions * run.width, c.dtype));
  run.d_o.upload(normal(random, run.positions * run.hidden, c.dtype));
  const double forward = median_ms(20, &Run::forward, run), backward = median_ms(20, &Run::backward, run);
  const double flops = 2.0 * c.batch * c.heads * c.sequence * c.sequence * c.size;
  std::printf(
      "{\"measure\":\"attention\",\"head\":%d,\"sequence\":%d,\"batch\":%d,\"heads\":%d,\"dtype\":\"%s\",\"dropout\":%g,"
      "\"forward_ms\":%.4f,\"backward_ms\":%.4f,\"forward_tflops\":%.1f,\"backward_tflops\":%.1f}\n",
      size, sequence, c.batch, c.heads, name_of(dtype), dropout, forward, backward, flops / forward * 1e-9, 2.5 * flops / backward * 1e-9);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  bool checked = true, measured = true, longer = true;
  for (int i = 1; i < count; ++i) {
    const auto is = [&](const char* option) { return std::strcmp(arguments[i], option) == 0; };
    if (is("--check")) measured = false;
    else if (is("--small")) measured = longer = false;
    else if (is("--measure")) checked = false;
    else {
      std::fprintf(stderr, "attention: option, expected --check, --small or --measure, got %s\n", arguments[i]);
      return 2;
    }
  }
  const Properties device = properties();
  std::vector<Case> cases;
  for (const bool causal : {true, false}) {
    for (const double dropout : {0.0, 0.3}) {
      for (const DType dtype : {DType::bf16, DType::f16}) {
        for (const int size : {64, 80, 96, 128}) {
          for (const int sequence : {1, 63, 130, 257, 300}) cases.push_back({1, sequence, 2, size, dtype, causal, dropout, 0});
        }
      }
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        for (const int size : {1, 3, 20, 40, 64, 129, 256}) {
          cases.push_back({2, size == 64 ? 131 : 67, size == 3 ? 3 : 1, size, dtype, causal, dropout, 0});
        }
      }
    }
  }
  cases.push_back({3, 192, 1, 64, DType::bf16, true, 1.0, 0});
  cases.push_back({1, 70, 1, 8, DType::f32, false, 1.0, 0});
  if (longer) {
    for (const int size : {64, 80, 96, 128}) {
      for (const bool causal : {true, false}) {
        cases.push_back({8, 1024, 1920 / size, size, DType::bf16, causal, 0, 200});
        cases.push_back({2, 4097, 4, size, DType::f16, causal, 0, 200});
        cases.push_back({2, 2048, 4, size, DType::bf16, causal, 0.1, 200});
      }
      cases.push_back({1, 16384, 2048 / size, size, DType::bf16, true, 0, 100});
    }
    cases.push_back({2, 2000, 3, 128, DType::f32, true, 0.1, 50});
  }
  bool right = true;
  if (checked)
    for (const Case& c : cases) right = check_case(c, device) && right;
  if (measured) {
    for (const int size : {64, 128}) {
      for (const int sequence : {1024, 2048, 4096, 8192, 16384}) measure(sequence, size, DType::bf16, 0, device);
    }
    for (const int size : {80, 96}) measure(4096, size, DType::bf16, 0, device);
    for (const int size : {64, 128}) measure(1024, size, DType::bf16, 0.1, device);
    measure(1024, 64, DType::f32, 0, device);
  }
  return right ? 0 : 1;
}
