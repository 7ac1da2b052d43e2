// One call of a kernel on trial: operands of random numbers with guarded ends, poisoned outputs and workspace, and a second run as on a
// device of 7 multiprocessors, whose bits must be equal. Results are compared with bounds on their error.
#pragma once

#include <cmath>
#include <memory>
#include <string>

#include "../../kernels/gpu/products.h"
#include "device.h"

namespace deeptroupe::gpu {

inline double unit(DType dtype) { return dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8; }
inline int64_t size_of(DType dtype) { return abi::dtype_bytes[static_cast<uint32_t>(dtype)]; }
/// Relative error of a sum in f32 of so many terms against the sum of their magnitudes.
inline double summed(int64_t terms) { return (8 + 2 * std::sqrt(static_cast<double>(terms))) * 0x1p-24; }

/// The product is in place already, so that only the passes after it run.
struct NoProducts : Products {
  NoProducts() : Products(ProductOptions{}) {}
  std::string library() const override { return "none"; }
  void enqueue(const Product&, std::byte*, size_t, Stream) override {}
  std::vector<Candidate> tune(const Product&, std::byte*, size_t, Stream, int) override { return {}; }
};

struct Machine {
  Properties device;
  KernelTable table{};
  NoProducts products;

  explicit Machine(std::initializer_list<void (*)(KernelTable&)> families) : device(properties_of(0)) {
    for (const auto add : families) add(table);
  }

  void call(abi::Opcode opcode, const std::vector<const Tensor*>& in, const std::vector<const Tensor*>& out, const void* attributes,
            void* workspace, size_t bytes) {
    Call call{};
    call.inputs = in.data(), call.outputs = out.data(), call.attributes = attributes;
    call.workspace = static_cast<std::byte*>(workspace), call.workspace_bytes = bytes;
    call.device = &device, call.products = &products, call.ranks = 1;
    table.kernels[static_cast<int>(opcode)](call);
  }
};

/// A tensor of random numbers on the device and the host, `offset` elements behind a border of 256 bytes, with guarded ends.
class Guarded {
 public:
  static constexpr size_t guard = 1024;
  Guarded(DType dtype, std::vector<int64_t> dims, int64_t offset) : offset_(offset * size_of(dtype)) {
    tensor.dtype = dtype, tensor.rank = static_cast<uint32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), tensor.dims);
    bytes_ = tensor.elements() * size_of(dtype);
    check(cudaMalloc(reinterpret_cast<void**>(&data_), guard + offset_ + bytes_ + guard), "cudaMalloc");
    tensor.data = data_ + guard + offset_;
    poison();
  }
  ~Guarded() { cudaFree(data_); }
  Guarded(const Guarded&) = delete;
  /// Every float becomes NaN.
  void poison() { check(cudaMemset(data_, 0xff, guard + offset_ + bytes_ + guard), "cudaMemset"); }
  void upload(const std::vector<double>& values) {
    std::vector<std::byte> host(bytes_);
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      const float value = static_cast<float>(values[i]);
      if (tensor.dtype == DType::f32) reinterpret_cast<float*>(host.data())[i] = value;
      else if (tensor.dtype == DType::f16) reinterpret_cast<f16*>(host.data())[i] = __float2half(value);
      else reinterpret_cast<bf16*>(host.data())[i] = __float2bfloat16(value);
    }
    upload(host);
  }
  void upload(const std::vector<std::byte>& from) { check(cudaMemcpy(tensor.data, from.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy"); }
  std::vector<std::byte> bits() const { return copied<std::byte>(tensor.data, bytes_); }
  std::vector<double> values() const {
    const std::vector<std::byte> host = bits();
    std::vector<double> found(tensor.elements());
    for (size_t i = 0; i < found.size(); ++i) found[i] = as_double(host.data(), tensor.dtype, static_cast<int64_t>(i));
    return found;
  }
  bool guarded() const {
    const std::vector<std::byte> all = copied<std::byte>(data_, guard + offset_ + bytes_ + guard);
    const auto poisoned = [](std::byte b) { return b == std::byte{0xff}; };
    return std::all_of(all.begin(), all.begin() + guard + offset_, poisoned) && std::all_of(all.end() - guard, all.end(), poisoned);
  }

  Tensor tensor{};

 private:
  char* data_ = nullptr;
  size_t offset_, bytes_ = 0;
};

/// Numbers close to normal ones, from a seed.
inline std::vector<double> normal(int64_t count, double deviation, double mean, uint64_t seed) {
  std::vector<double> values(count);
  uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (double& value : values) {
    double sum = 0;
    for (int draw = 0; draw < 4; ++draw) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<double>(state >> 40) * 0x1p-24 - 0.5;
    }
    value = mean + deviation * sum * 1.7320508;
  }
  return values;
}

/// The worst error of a result against its bound: at most 1 where all is well.
struct Worst {
  double ratio = 0;
  void compare(double got, double expected, double bound) {
    const double here = std::fabs(got - expected) / (1.01 * bound + 1e-30);
    if (!(here <= ratio)) ratio = std::isnan(here) ? INFINITY : here;
  }
  /// The same of a result that was rounded to its dtype: in 16 bits too small numbers have an absolute step.
  void compare_rounded(double got, double expected, double bound, DType dtype) {
    compare(got, expected, bound + unit(dtype) * (std::fabs(expected) + bound) + (dtype == DType::f16 ? 0x1p-25 : 0));
  }
};

/// Operands and outputs of one call; an absent one is null. The call runs twice, the second time as on another device.
class Trial {
 public:
  explicit Trial(Machine& machine) : machine_(machine) {}

  const Guarded* operand(bool wanted, DType dtype, std::vector<int64_t> dims, int64_t offset, const std::vector<double>& values) {
    return wanted ? keep(inputs_, dtype, dims, offset, &values) : keep(inputs_);
  }
  const Guarded* output(bool wanted, DType dtype, std::vector<int64_t> dims, int64_t offset) {
    return wanted ? keep(outputs_, dtype, dims, offset, nullptr) : keep(outputs_);
  }
  /// An output that lies on operand `input`.
  const Guarded* output_over(int input) {
    outputs_.push_back(inputs_[static_cast<size_t>(input)]);
    overlaid_ = input;
    return outputs_.back().get();
  }

  /// Returns whether bits were equal and nothing else was written.
  bool run(abi::Opcode opcode, const void* attributes, size_t workspace_bytes) {
    std::vector<std::vector<std::byte>> before, after;
    for (const auto& input : inputs_) before.push_back(input ? input->bits() : std::vector<std::byte>{});
    Guarded workspace(DType::f32, {static_cast<int64_t>(workspace_bytes / 4)}, 0);
    std::vector<const Tensor*> in, out;
    for (const auto& input : inputs_) in.push_back(input ? &input->tensor : nullptr);
    for (const auto& output : outputs_) out.push_back(output ? &output->tensor : nullptr);
    bool well = true;
    const int multiprocessors = machine_.device.multiprocessors;
    for (const int pretended : {7, multiprocessors}) {
      for (size_t o = 0; o < outputs_.size(); ++o)
        if (outputs_[o] && !over(o)) outputs_[o]->poison();
      if (overlaid_ >= 0) inputs_[static_cast<size_t>(overlaid_)]->upload(before[static_cast<size_t>(overlaid_)]);
      workspace.poison();
      machine_.device.multiprocessors = pretended;
      machine_.call(opcode, in, out, attributes, workspace.tensor.data, workspace_bytes);
      check(cudaDeviceSynchronize(), "run");
      std::vector<std::vector<std::byte>> found;
      for (const auto& output : outputs_) found.push_back(output ? output->bits() : std::vector<std::byte>{});
      if (!after.empty()) well = well && found == after;
      after = found;
    }
    machine_.device.multiprocessors = multiprocessors;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      if (!inputs_[i]) continue;
      well = well && inputs_[i]->guarded() && (static_cast<int>(i) == overlaid_ || inputs_[i]->bits() == before[i]);
    }
    for (const auto& output : outputs_) well = well && (!output || output->guarded());
    return well && workspace.guarded();
  }

 private:
  using Kept = std::vector<std::shared_ptr<Guarded>>;
  static const Guarded* keep(Kept& in) {
    in.push_back(nullptr);
    return nullptr;
  }
  static const Guarded* keep(Kept& in, DType dtype, const std::vector<int64_t>& dims, int64_t offset, const std::vector<double>* values) {
    in.push_back(std::make_shared<Guarded>(dtype, dims, offset));
    if (values) in.back()->upload(*values);
    return in.back().get();
  }
  bool over(size_t o) const { return overlaid_ >= 0 && outputs_[o] == inputs_[static_cast<size_t>(overlaid_)]; }

  Machine& machine_;
  Kept inputs_, outputs_;
  int overlaid_ = -1;
};

}  // namespace deeptroupe::gpu
