// What a GPU kernel is given. One call enqueues one instruction of a program on a stream and never waits for the device.
// Nothing that varies per run is known to the host here: scalars are read where they lie in device memory, so that a
// captured graph of these calls stays valid for every step.
#pragma once

#include "../abi/abi.h"
#include "../abi/tensor.h"
#include "gpu.h"

namespace deeptroupe::gpu {

struct Properties {
  int major = 0, minor = 0;
  int multiprocessors = 0;
  /// Most dynamic shared memory of a block.
  size_t shared_bytes = 0;
  size_t l2_bytes = 0;
  std::string name;
};

/// The first value that a kernel could not work with, in device memory, zeros where there was none. The host reads it
/// after the run and names the instruction.
struct Fault {
  unsigned taken;
  /// Index in its program of the instruction.
  unsigned instruction;
  long long value;
  /// The value was expected from 0 to `limit` - 1.
  long long limit;
};

#if defined(__CUDACC__) || defined(__HIPCC__)
__device__ inline void report(Fault* fault, unsigned instruction, long long value, long long limit) {
  if (atomicCAS(&fault->taken, 0u, 1u) != 0) return;
  fault->instruction = instruction;
  fault->value = value;
  fault->limit = limit;
}
#endif

/// Matrix products of the vendor's library (products.h).
class Products;

struct Call {
  /// Operands in the op table's order, `data` in device memory; null where an optional input or an unwanted output is absent.
  const Tensor* const* inputs;
  const Tensor* const* outputs;
  /// The op's attribute struct of abi.h.
  const void* attributes;
  /// Device addresses of the op's scalars, in the op table's order.
  const double* const* scalars;
  /// 256-byte aligned scratch memory of the size that workspace.ts asked for; null if none.
  std::byte* workspace;
  size_t workspace_bytes;
  Stream stream;
  const Properties* device;
  Products* products;
  Fault* fault;
  /// Index of the instruction, for `report`.
  unsigned instruction;
  int rank;
  int ranks;

  const Tensor& in(int i) const { return *inputs[i]; }
  const Tensor& out(int i) const { return *outputs[i]; }
  bool has_in(int i) const { return inputs[i] != nullptr; }
  bool has_out(int i) const { return outputs[i] != nullptr; }
  template <class A>
  const A& attrs() const {
    return *static_cast<const A*>(attributes);
  }
};

using Kernel = void (*)(const Call&);

/// By opcode; null where there is none.
struct KernelTable {
  static constexpr int size = 512;
  Kernel kernels[size];

  void add(abi::Opcode opcode, Kernel kernel) { kernels[static_cast<size_t>(opcode)] = kernel; }
};

const KernelTable& kernel_table();

void add_activation(KernelTable&);
void add_attention(KernelTable&);
void add_cross_entropy(KernelTable&);
void add_dropout(KernelTable&);
void add_elementwise(KernelTable&);
void add_embedding(KernelTable&);
void add_fill(KernelTable&);
void add_linear(KernelTable&);
void add_norm(KernelTable&);
void add_optimizer(KernelTable&);
void add_softmax(KernelTable&);

/// Calls f with a value of the type that `dtype` names, f32, bf16 or f16: with_float(t.dtype, [&]<class T>(T) { ... }).
template <class F>
void with_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::f16: return f(f16{});
    default: throw KernelError("gpu: dtype, expected f32, bf16 or f16, got number " + std::to_string(static_cast<int>(dtype)));
  }
}

}  // namespace deeptroupe::gpu
