// Matrix products of GPT-2's training, as the kernels ask for them: a table of TFLOP/s of the library's suggestion and of the best of
// its candidates, on stderr, and JSON on stdout with the lines of the stored table. Also what passes beside products take: activations
// as passes of their own or in the library's epilogues, and the classifier.
//   products [--limit 16] [--models d12,d24,d48] [--only passes|products]
#include <cstring>
#include <string>

#include "../../kernels/gpu/products.h"
#include "device.h"

namespace deeptroupe::gpu {
namespace {

constexpr int64_t sequence = 1024, classes = 50304;

struct Model {
  const char* name;
  int64_t batch, width;
};
constexpr Model models[] = {{"d12", 64, 768}, {"d24", 32, 1024}, {"d48", 16, 1600}};

/// Takes down the products that a kernel asks for, and computes nothing.
class Recorder final : public Products {
 public:
  explicit Recorder(bool gelu_epilogues) : Products({false, gelu_epilogues, {}}) {}
  std::string library() const override { return "recorder"; }
  void enqueue(const Product& product, std::byte*, size_t, Stream) override { products.push_back(product); }
  std::vector<Candidate> tune(const Product&, std::byte*, size_t, Stream, int) override { return {}; }
  std::vector<Product> products;
};

/// Calls kernels on device tensors.
class Bench {
 public:
  Bench(const Properties& device, Memory& memory, size_t workspace_bytes)
      : device_(device), workspace_bytes_(workspace_bytes), workspace_(static_cast<std::byte*>(memory.take(workspace_bytes))) {
    add_linear(table_);
    add_cross_entropy(table_);
    fault_ = static_cast<Fault*>(memory.take(sizeof(Fault)));
    check(cudaMemset(fault_, 0, sizeof(Fault)), "cudaMemset");
  }

  template <class A>
  void call(Products& products, abi::Opcode opcode, std::vector<const Tensor*> inputs, std::vector<const Tensor*> outputs, const A& attributes) {
    Call call{};
    call.inputs = inputs.data(), call.outputs = outputs.data(), call.attributes = &attributes;
    call.workspace = workspace_, call.workspace_bytes = workspace_bytes_;
    call.device = &device_, call.products = &products, call.fault = fault_, call.ranks = 1;
    table_.kernels[static_cast<size_t>(opcode)](call);
  }

 private:
  const Properties& device_;
  const size_t workspace_bytes_;
  std::byte* const workspace_;
  Fault* fault_ = nullptr;
  KernelTable table_{};
};

struct Options {
  int limit = 16;
  std::string models = "d12,d24,d48", only;
};

class Report {
 public:
  /// Split sums must not lie on logits, which are operands too: they have a workspace of their own.
  Report(Products& products, Memory& memory, int limit)
      : products_(products), workspace_(static_cast<std::byte*>(memory.take(product_workspace))), limit_(limit) {}

  void product(const char* model, const char* layer, const char* what, const Product& product) {
    const std::vector<Candidate> found = products_.tune(product, workspace_, product_workspace, nullptr, limit_);
    if (found.empty()) return;
    size_t best = 0;
    for (size_t i = 1; i < found.size(); ++i)
      if (found[i].milliseconds < found[best].milliseconds) best = i;
    // A gain that another run would not see is not worth other bits.
    if (found[best].milliseconds > 0.99 * found[0].milliseconds) best = 0;
    const double flops = 2.0 * static_cast<double>(product.m) * static_cast<double>(product.n) * static_cast<double>(product.k);
    const auto rate = [&](size_t i) { return flops / found[i].milliseconds * 1e-9; };
    std::fprintf(stderr, "%-4s %-5s %-26s %6lld x %5lld x %5lld  first %6.1f  best %6.1f TFLOP/s (%zu of %zu), %8.3f -> %8.3f ms\n", model, layer,
                 what, static_cast<long long>(product.m), static_cast<long long>(product.n), static_cast<long long>(product.k), rate(0),
                 rate(best), best, found.size(), found[0].milliseconds, found[best].milliseconds);
    std::string choice;
    for (const char c : found[best].choice) choice += c == '\t' ? std::string("\\t") : std::string(1, c);
    std::printf("%s\n    {\"model\": \"%s\", \"layer\": \"%s\", \"what\": \"%s\", \"m\": %lld, \"n\": %lld, \"k\": %lld, \"first\": %.1f, \"best\": %.1f, "
                "\"better\": %s, \"choice\": \"%s\"}",
                rows_++ ? "," : "", model, layer, what, static_cast<long long>(product.m), static_cast<long long>(product.n),
                static_cast<long long>(product.k), rate(0), rate(best), best ? "true" : "false", choice.c_str());
    sums_[0] += found[0].milliseconds, sums_[1] += found[best].milliseconds;
  }

  void pass(const char* model, const char* what, double milliseconds, double bytes) {
    std::fprintf(stderr, "%-4s %-50s %8.3f ms", model, what, milliseconds);
    if (bytes > 0) std::fprintf(stderr, "  %6.2f TB/s", bytes / milliseconds * 1e-9);
    std::fprintf(stderr, "\n");
    std::printf("%s\n    {\"model\": \"%s\", \"pass\": \"%s\", \"milliseconds\": %.4f, \"bytes\": %.0f}", rows_++ ? "," : "", model, what, milliseconds,
                bytes);
  }

  void total(const char* model) {
    std::fprintf(stderr, "%-4s all of the above once: first %.3f ms, best %.3f ms\n\n", model, sums_[0], sums_[1]);
    sums_[0] = sums_[1] = 0;
  }

 private:
  Products& products_;
  std::byte* const workspace_;
  const int limit_;
  int rows_ = 0;
  double sums_[2] = {};
};

void measure(const Model& model, const Properties& device, Products& products, Products& with_epilogues, const Options& options) {
  using abi::Opcode;
  constexpr DType T = DType::bf16;
  Memory memory;
  const int64_t rows = model.batch * sequence, d = model.width;
  const size_t logits_bytes = static_cast<size_t>(rows * classes) * 2;
  Bench bench(device, memory, logits_bytes + static_cast<size_t>(rows) * 8 + product_workspace + 4096);
  Report report(products, memory, options.limit);
  const Tensor x = memory.random(T, {rows, d}), y = memory.random(T, {rows, d}), residual = memory.random(T, {rows, d});
  const Tensor qkv = memory.random(T, {rows, 3 * d}), pre = memory.random(T, {rows, 4 * d}), act = memory.random(T, {rows, 4 * d});
  const Tensor weight = memory.random(T, {d, 4 * d}, 0.02f), bias = memory.random(T, {4 * d}), dw = memory.random(DType::f32, {classes, d});
  const Tensor wte = memory.random(T, {classes, d}, 0.02f), one = memory.random(DType::f32, {1});
  std::vector<int32_t> classes_of_rows(static_cast<size_t>(rows));
  for (size_t i = 0; i < classes_of_rows.size(); ++i) classes_of_rows[i] = static_cast<int32_t>(i * 7919 % classes);
  const Tensor targets = memory.integers(classes_of_rows);
  const auto as = [](Tensor tensor, std::initializer_list<int64_t> dims, DType dtype) {
    tensor.rank = static_cast<uint32_t>(dims.size()), tensor.dtype = dtype;
    std::copy(dims.begin(), dims.end(), tensor.dims);
    return tensor;
  };
  const Tensor w_qkv = as(weight, {d, 3 * d}, T), w_proj = as(weight, {d, d}, T), w_fc = as(weight, {d, 4 * d}, T), w_out = as(weight, {4 * d, d}, T);
  const Tensor b_qkv = as(bias, {3 * d}, T), b_proj = as(bias, {d}, T), b_fc = as(bias, {4 * d}, T);
  constexpr int gelu = 0;

  if (options.only != "passes") {
    const auto record = [&](const char* layer, const char* what, bool epilogues, auto&& ask) {
      Recorder recorder(epilogues);
      ask(recorder);
      for (const Product& product : recorder.products) report.product(model.name, layer, what, product);
    };
    const auto layer = [&](const char* name, const Tensor& in, const Tensor& w, const Tensor& b, const Tensor* add, const Tensor& out) {
      record(name, add ? "forward, bias, residual" : "forward, bias", false, [&](Products& p) {
        bench.call(p, Opcode::linear, {&in, &w, &b, add}, {&out}, abi::LinearAttributes{.transposed = 1});
      });
      record(name, "dX", false, [&](Products& p) {
        bench.call(p, Opcode::linear_input_gradient, {&out, &w}, {&in}, abi::LinearInputGradientAttributes{.transposed = 1});
      });
      for (const DType dtype : {T, DType::f32}) {
        const Tensor result = as(dw, {w.dims[0], w.dims[1]}, dtype);
        record(name, dtype == T ? "dW" : "dW, f32", false, [&](Products& p) {
          bench.call(p, Opcode::linear_weight_gradient, {&in, &out}, {&result}, abi::LinearWeightGradientAttributes{.transposed = 1, .wide = dtype != T});
        });
      }
    };
    layer("qkv", x, w_qkv, b_qkv, nullptr, qkv);
    layer("proj", x, w_proj, b_proj, &residual, y);
    layer("fc", x, w_fc, b_fc, nullptr, pre);
    layer("out", act, w_out, b_proj, &residual, y);
    record("fc", "forward, bias, GELU by lib", true, [&](Products& p) {
      bench.call(p, Opcode::linear_activation, {&x, &w_fc, &b_fc}, {&pre, &act}, abi::LinearActivationAttributes{.transposed = 1, .kind = gelu});
    });
    record("out", "dX, GELU' by lib", true, [&](Products& p) {
      bench.call(p, Opcode::linear_input_gradient_activation, {&y, &w_out, &pre}, {&act, nullptr},
                 abi::LinearInputGradientActivationAttributes{.transposed = 1, .kind = gelu, .sum = 0, .wide = 0});
    });
    const Tensor dwte = as(dw, {classes, d}, DType::f32);
    Recorder recorder(false);
    bench.call(recorder, Opcode::linear_cross_entropy_gradients, {&x, &wte, &targets, &one}, {&one, &y, &dwte},
               abi::LinearCrossEntropyGradientsAttributes{.transposed = 0, .scale = 1.0 / static_cast<double>(rows), .rows = rows, .wide = 1});
    static constexpr const char* head[] = {"logits", "dX", "dW, f32"};
    for (size_t i = 0; i < recorder.products.size(); ++i) report.product(model.name, "head", head[i], recorder.products[i]);
    report.total(model.name);
  }

  if (options.only != "products") {
    const double A = static_cast<double>(rows * d) * 2;
    const auto time = [&](const char* what, double bytes, auto&& enqueue) {
      report.pass(model.name, what, median_milliseconds(enqueue), bytes);
    };
    const auto forward = [&](Products& p) {
      bench.call(p, Opcode::linear_activation, {&x, &w_fc, &b_fc}, {&pre, &act}, abi::LinearActivationAttributes{.transposed = 1, .kind = gelu});
    };
    const auto backward = [&](Products& p, const Tensor* sum) {
      bench.call(p, Opcode::linear_input_gradient_activation, {&y, &w_out, &pre}, {&act, sum},
                 abi::LinearInputGradientActivationAttributes{.transposed = 1, .kind = gelu, .sum = sum != nullptr, .wide = 0});
    };
    Recorder nothing(false);
    const Tensor sum = as(dw, {4 * d}, T);
    time("GELU, a pass of its own", 8 * A, [&] { forward(nothing); });
    time("GELU', a pass of its own", 12 * A, [&] { backward(nothing, nullptr); });
    time("GELU' and sum of rows, a pass of its own", 12 * A, [&] { backward(nothing, &sum); });
    time("fc with GELU, product and pass", 0, [&] { forward(products); });
    time("fc with GELU by the library", 0, [&] { forward(with_epilogues); });
    time("dX of out with GELU', product and pass", 0, [&] { backward(products, nullptr); });
    time("dX of out with GELU' by the library", 0, [&] { backward(with_epilogues, nullptr); });
    time("dX of out with GELU' and sum, product and pass", 0, [&] { backward(products, &sum); });
    time("dX of out with GELU' and sum, by the library, pass", 0, [&] { backward(with_epilogues, &sum); });
    const auto head = [&](const Tensor* dx) {
      bench.call(nothing, Opcode::linear_cross_entropy_gradients, {&x, &wte, &targets, &one}, {&one, dx, nullptr},
                 abi::LinearCrossEntropyGradientsAttributes{.transposed = 0, .scale = 1.0 / static_cast<double>(rows), .rows = rows, .wide = 1});
    };
    // Without a dx the pass only reads.
    const double logits = static_cast<double>(logits_bytes);
    time("classifier, logits become gradients", 2 * logits, [&] { head(&y); });
    time("classifier, losses alone", logits, [&] { head(nullptr); });
    std::fprintf(stderr, "\n");
  }
}

int run(const Options& options) {
  const Properties device = properties_of(0);
  std::string reason;
  const std::unique_ptr<Products> products = make_products(device, {}, &reason);
  const std::unique_ptr<Products> with_epilogues = make_products(device, {false, true, {}});
  if (!reason.empty()) return std::fprintf(stderr, "%s\n", reason.c_str()), 1;
  std::fprintf(stderr, "%s, %s\n\n", device.name.c_str(), products->library().c_str());
  std::printf("{\"gpu\": \"%s\", \"library\": \"%s\", \"rows\": [", device.name.c_str(), products->library().c_str());
  bool first = true;
  for (const Model& model : models)
    if (options.models.find(model.name) != std::string::npos) {
      if (!first) std::printf(",");
      first = false;
      measure(model, device, *products, *with_epilogues, options);
    }
  std::printf("\n]}\n");
  return 0;
}

}  // namespace
}  // namespace deeptroupe::gpu

int main(int count, char** arguments) {
  deeptroupe::gpu::Options options;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string name = arguments[i];
    if (name == "--limit") options.limit = std::stoi(arguments[i + 1]);
    else if (name == "--models") options.models = arguments[i + 1];
    else if (name == "--only") options.only = arguments[i + 1];
    else return std::fprintf(stderr, "products: option, expected --limit, --models or --only, got %s\n", name.c_str()), 2;
  }
  try {
    return deeptroupe::gpu::run(options);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
