// Products by cublasLt. It knows column-major matrices only: a row-major D = A B is its D^T = B^T A^T, so that our b is its A, our a its
// B, and our rows are its leading dimensions. What a product needs is worked out once and kept; later calls of its kind cost a look-up.
#include "products.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <sstream>
#include <unordered_map>

#include "choices.h"
#include "cublaslt.h"

namespace deeptroupe::gpu {

#if !defined(__HIP__)
namespace {

/// Whole powers of two that divide an address, up to 256 bytes; more for an address that is not used.
uint32_t alignment_of(const void* address) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(address) | 256;
  return static_cast<uint32_t>(bits & -bits);
}

/// Multiply-adds that the plain kernel does in well under a millisecond.
constexpr int64_t most_portable = int64_t{1} << 32;

/// All that decides how a product is computed, beside the values of its operands.
struct Key {
  int64_t m, n, k, a_stride, b_stride, d_stride;
  size_t workspace_bytes;
  /// Of a, b, c, d, bias and aux.
  std::array<uint16_t, 6> alignments;
  DType operands, result;
  bool a_transposed, b_transposed, has_c, has_bias;
  Epilogue epilogue;

  Key(const Product& p, size_t workspace)
      : m(p.m),
        n(p.n),
        k(p.k),
        a_stride(p.a_stride ? p.a_stride : p.a_transposed ? p.m : p.k),
        b_stride(p.b_stride ? p.b_stride : p.b_transposed ? p.k : p.n),
        d_stride(p.d_stride ? p.d_stride : p.n),
        workspace_bytes(std::min(workspace, product_workspace)),
        operands(p.operands),
        result(p.result),
        a_transposed(p.a_transposed),
        b_transposed(p.b_transposed),
        has_c(p.beta != 0),
        has_bias(p.bias != nullptr),
        epilogue(p.epilogue) {
    const void* const addresses[] = {p.a, p.b, has_c ? p.c : p.d, p.d, p.bias, p.aux};
    for (size_t i = 0; i < alignments.size(); ++i) alignments[i] = static_cast<uint16_t>(alignment_of(addresses[i]));
  }
  bool operator==(const Key&) const = default;

  /// Where the library rounds a product to 16 bits before it adds bias or base: seen where rows are not whole packs of 16 bytes.
  bool rounded_twice() const { return result != DType::f32 && (has_bias || has_c) && n % 8 != 0; }

  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t hash = 0xcbf29ce484222325;
      const auto mix = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001b3, hash ^= hash >> 29; };
      for (const int64_t word : {key.m, key.n, key.k, key.a_stride, key.b_stride, key.d_stride}) mix(static_cast<uint64_t>(word));
      mix(key.workspace_bytes);
      for (const uint16_t alignment : key.alignments) mix(alignment);
      mix(static_cast<uint64_t>(key.operands) << 8 | static_cast<uint64_t>(key.result));
      mix(key.a_transposed | key.b_transposed << 1 | key.has_c << 2 | key.has_bias << 3 | static_cast<int>(key.epilogue) << 4);
      return hash;
    }
  };

  /// The product as the stored table names it.
  std::string text(bool tf32) const {
    static constexpr const char* epilogues[] = {"", " gelu", " gelu_gradient"};
    std::ostringstream out;
    out << (tf32 && operands == DType::f32 ? "tf32" : abi::dtype_names[static_cast<uint32_t>(operands)]) << '>'
        << abi::dtype_names[static_cast<uint32_t>(result)] << ' ' << m << 'x' << n << 'x' << k << ' ' << (a_transposed ? 't' : 'n')
        << (b_transposed ? 't' : 'n') << ' ' << a_stride << '/' << b_stride << '/' << d_stride << (has_bias ? " bias" : "")
        << (has_c ? " base" : "") << epilogues[static_cast<int>(epilogue)];
    return out.str();
  }
};

/// Descriptors of one kind of product and the algorithm for it; none where the library offers none.
struct Plan {
  const lt::Functions& lt;
  lt::Desc desc = nullptr;
  lt::Layout a = nullptr, b = nullptr, c = nullptr, d = nullptr;
  std::optional<lt::Algorithm> algorithm;

  explicit Plan(const lt::Functions& functions) : lt(functions) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (desc) lt.desc_destroy(desc);
    for (const lt::Layout layout : {a, b, c, d})
      if (layout) lt.layout_destroy(layout);
  }
};

lt::DataType data_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return lt::DataType::f32;
    case DType::bf16: return lt::DataType::bf16;
    case DType::f16: return lt::DataType::f16;
    default: throw KernelError("product: dtype, expected f32, bf16 or f16, got number " + std::to_string(static_cast<int>(dtype)));
  }
}

class CublasProducts final : public Products {
 public:
  CublasProducts(const Properties& properties, const ProductOptions& options, const Library& library)
      : Products(options), lt_(library), portable_(make_portable_products(options)) {
    name_ = "cublaslt " + std::to_string(lt_.version());
    check(lt_.create(&handle_), "cublasLtCreate");
    choices_ = choices_for(options.choices, properties.name, name_);
    device_ = properties.name;
  }
  ~CublasProducts() override {
    plans_.clear();
    lt_.destroy(handle_);
  }

  std::string library() const override { return name_; }

  void enqueue(const Product& product, std::byte* workspace, size_t workspace_bytes, Stream stream) override {
    if (product.m == 0 || product.n == 0) return;
    if (product.k == 0) return portable_->enqueue(product, workspace, workspace_bytes, stream);
    const Key key(product, workspace_bytes);
    if (key.rounded_twice() && key.m * key.n * key.k <= most_portable) return portable_->enqueue(product, workspace, workspace_bytes, stream);
    Plan& plan = plan_for(key, product);
    if (!plan.algorithm) return portable_->enqueue(product, workspace, workspace_bytes, stream);
    run(plan, *plan.algorithm, product, workspace, key.workspace_bytes, stream);
  }

  std::vector<Candidate> tune(const Product& product, std::byte* workspace, size_t workspace_bytes, Stream stream, int limit) override {
    const Key key(product, workspace_bytes);
    Plan plan(lt_);
    describe(plan, key, product);
    const std::vector<lt::HeuristicResult> found = heuristic(plan, key, limit);
    std::vector<std::vector<double>> times(found.size());
    std::vector<bool> works(found.size(), true);
    const auto once = [&](size_t i, int repeat) {
      for (int j = 0; j < repeat; ++j) run(plan, found[i].algorithm, product, workspace, key.workspace_bytes, stream);
    };
    Timer timer(stream);
    std::vector<int> repeats(found.size(), 1);
    for (size_t i = 0; i < found.size(); ++i) {
      try {
        once(i, 1);
        const double estimate = timer.milliseconds([&] { once(i, 2); }) / 2;
        repeats[i] = static_cast<int>(std::clamp(2.0 / std::max(estimate, 1e-3), 1.0, 50.0));
      } catch (const Error&) {
        works[i] = false;
      }
    }
    // In turns, so that a chip which slows down as it warms does so for all.
    for (int round = 0; round < 7; ++round)
      for (size_t i = 0; i < found.size(); ++i)
        if (works[i]) times[i].push_back(timer.milliseconds([&] { once(i, repeats[i]); }) / repeats[i]);
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < found.size(); ++i) {
      if (!works[i]) continue;
      std::nth_element(times[i].begin(), times[i].begin() + times[i].size() / 2, times[i].end());
      const std::string algorithm = choice_bytes(&found[i].algorithm, sizeof(lt::Algorithm));
      candidates.push_back({choice_line(device_, name_, key.text(options().tf32), algorithm), times[i][times[i].size() / 2],
                            found[i].workspace_bytes});
    }
    return candidates;
  }

 private:
  void check(lt::Status status, const char* what) const {
    if (status != lt::success) throw Error(std::string("gpu: ") + what + ", expected success, got " + lt_.status_string(status));
  }

  template <class Attribute, class V>
  void set(lt::Desc desc, Attribute attribute, const V& value) const {
    check(lt_.desc_set(desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }

  void set_pointers(lt::Desc desc, const Product& product) const {
    if (product.bias) set(desc, lt::DescAttribute::bias_pointer, product.bias);
    if (product.epilogue != Epilogue::none) set(desc, lt::DescAttribute::aux_pointer, product.aux);
  }

  Plan& plan_for(const Key& key, const Product& product) {
    const auto known = plans_.find(key);
    if (known != plans_.end()) return *known->second;
    auto plan = std::make_unique<Plan>(lt_);
    describe(*plan, key, product);
    plan->algorithm = stored(*plan, key);
    if (!plan->algorithm) {
      const std::vector<lt::HeuristicResult> found = heuristic(*plan, key, 1);
      if (!found.empty()) plan->algorithm = found[0].algorithm;
    }
    return *plans_.emplace(key, std::move(plan)).first->second;
  }

  void describe(Plan& plan, const Key& key, const Product& product) const {
    const lt::Compute compute = key.operands == DType::f32 && options().tf32 ? lt::Compute::tf32 : lt::Compute::f32;
    check(lt_.desc_create(&plan.desc, compute, lt::DataType::f32), "cublasLtMatmulDescCreate");
    using Attribute = lt::DescAttribute;
    set(plan.desc, Attribute::transa, key.b_transposed ? lt::Operation::transpose : lt::Operation::none);
    set(plan.desc, Attribute::transb, key.a_transposed ? lt::Operation::transpose : lt::Operation::none);
    lt::Epilogue epilogue = key.has_bias ? lt::Epilogue::bias : lt::Epilogue::none;
    if (key.epilogue == Epilogue::gelu_aux) epilogue = key.has_bias ? lt::Epilogue::gelu_aux_bias : lt::Epilogue::gelu_aux;
    if (key.epilogue == Epilogue::gelu_gradient) epilogue = lt::Epilogue::gelu_gradient;
    set(plan.desc, Attribute::epilogue, epilogue);
    if (key.epilogue != Epilogue::none) set(plan.desc, Attribute::aux_ld, key.n);
    set_pointers(plan.desc, product);
    const auto layout = [&](lt::Layout& target, DType dtype, int64_t rows, int64_t columns, int64_t stride) {
      check(lt_.layout_create(&target, data_type(dtype), static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), stride),
            "cublasLtMatrixLayoutCreate");
    };
    layout(plan.a, key.operands, key.b_transposed ? key.n : key.k, key.b_transposed ? key.k : key.n, key.b_stride);
    layout(plan.b, key.operands, key.a_transposed ? key.k : key.m, key.a_transposed ? key.m : key.k, key.a_stride);
    layout(plan.c, key.result, key.m, key.n, key.d_stride);
    layout(plan.d, key.result, key.m, key.n, key.d_stride);
  }

  /// Alignments of the library's A, B, C and D.
  static std::array<uint32_t, 4> operand_alignments(const Key& key) {
    return {key.alignments[1], key.alignments[0], key.alignments[2], key.alignments[3]};
  }

  std::optional<lt::Algorithm> stored(const Plan& plan, const Key& key) const {
    const auto choice = choices_.find(key.text(options().tf32));
    lt::Algorithm algorithm;
    if (choice == choices_.end() || !read_choice_bytes(choice->second, &algorithm, sizeof algorithm)) return {};
    static constexpr lt::Capability capabilities[] = {lt::Capability::min_alignment_a_bytes, lt::Capability::min_alignment_b_bytes,
                                                      lt::Capability::min_alignment_c_bytes, lt::Capability::min_alignment_d_bytes};
    const std::array<uint32_t, 4> alignments = operand_alignments(key);
    for (size_t i = 0; i < alignments.size(); ++i) {
      uint32_t needed = 0;
      size_t written = 0;
      if (lt_.capability(&algorithm, capabilities[i], &needed, sizeof needed, &written) != lt::success) return {};
      if (needed > alignments[i]) return {};
    }
    lt::HeuristicResult result{};
    if (lt_.check(handle_, plan.desc, plan.a, plan.b, plan.c, plan.d, &algorithm, &result) != lt::success) return {};
    if (result.workspace_bytes > key.workspace_bytes) return {};
    return algorithm;
  }

  std::vector<lt::HeuristicResult> heuristic(const Plan& plan, const Key& key, int limit) const {
    lt::Preference preference = nullptr;
    check(lt_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
    const std::unique_ptr<lt::PreferenceOpaque, lt::Status (*)(lt::Preference)> owner(preference, lt_.preference_destroy);
    using Attribute = lt::PreferenceAttribute;
    const auto prefer = [&](Attribute attribute, const auto& value) {
      check(lt_.preference_set(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(Attribute::max_workspace_bytes, static_cast<uint64_t>(key.workspace_bytes));
    prefer(Attribute::reduction_scheme_mask, lt::reduction_in_compute_type);
    const std::array<uint32_t, 4> alignments = operand_alignments(key);
    prefer(Attribute::min_alignment_a_bytes, alignments[0]);
    prefer(Attribute::min_alignment_b_bytes, alignments[1]);
    prefer(Attribute::min_alignment_c_bytes, alignments[2]);
    prefer(Attribute::min_alignment_d_bytes, alignments[3]);
    std::vector<lt::HeuristicResult> found(static_cast<size_t>(limit));
    int count = 0;
    // Not supported is an answer: products of our own take over.
    if (lt_.heuristic(handle_, plan.desc, plan.a, plan.b, plan.c, plan.d, preference, limit, found.data(), &count) != lt::success)
      count = 0;
    found.resize(static_cast<size_t>(count));
    std::erase_if(found, [](const lt::HeuristicResult& result) { return result.state != lt::success; });
    return found;
  }

  void run(const Plan& plan, const lt::Algorithm& algorithm, const Product& product, std::byte* workspace, size_t workspace_bytes,
           Stream stream) const {
    set_pointers(plan.desc, product);
    const void* const c = product.beta != 0 ? product.c : product.d;
    check(lt_.matmul(handle_, plan.desc, &product.alpha, product.b, plan.a, product.a, plan.b, &product.beta, c, plan.c, product.d, plan.d,
                     &algorithm, workspace, workspace_bytes, stream),
          "cublasLtMatmul");
  }

  /// Milliseconds of what is enqueued between two events.
  class Timer {
   public:
    explicit Timer(Stream stream) : stream_(stream) {
      gpu::check(cudaEventCreate(&start_), "cudaEventCreate");
      gpu::check(cudaEventCreate(&end_), "cudaEventCreate");
    }
    ~Timer() {
      cudaEventDestroy(start_);
      cudaEventDestroy(end_);
    }
    template <class F>
    double milliseconds(F&& enqueue) {
      gpu::check(cudaEventRecord(start_, stream_), "cudaEventRecord");
      enqueue();
      gpu::check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      gpu::check(cudaEventSynchronize(end_), "a timed product");
      float elapsed = 0;
      gpu::check(cudaEventElapsedTime(&elapsed, start_, end_), "cudaEventElapsedTime");
      return elapsed;
    }

   private:
    Stream stream_;
    cudaEvent_t start_ = nullptr, end_ = nullptr;
  };

  const lt::Functions lt_;
  lt::Handle handle_ = nullptr;
  std::string name_, device_;
  std::unordered_map<std::string, std::string> choices_;
  std::unordered_map<Key, std::unique_ptr<Plan>, Key::Hash> plans_;
  const std::unique_ptr<Products> portable_;
};

}  // namespace

std::unique_ptr<Products> make_products(const Properties& properties, const ProductOptions& options, std::string* reason) {
  const Library library("cublasLt", "DEEPTROUPE_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"});
  if (library) return std::make_unique<CublasProducts>(properties, options, library);
  if (reason) *reason = library.reason();
  return make_portable_products(options);
}
#else
std::unique_ptr<Products> make_products(const Properties&, const ProductOptions& options, std::string* reason) {
  if (reason) *reason = "cublasLt, expected an NVIDIA GPU, got another";
  return make_portable_products(options);
}
#endif

}  // namespace deeptroupe::gpu
