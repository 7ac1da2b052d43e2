// What a CPU kernel is given and how it uses threads. One call runs one instruction of a program.
// Every kernel source is compiled once per instruction set into its own namespace (see isa.h); the executor picks a table at load.
#pragma once

#include <string>
#include <type_traits>

#include "../abi/tensor.h"

namespace deeptroupe {

/// The threads of one rank. The caller takes part as thread 0.
class Pool {
 public:
  virtual ~Pool() = default;
  virtual int threads() const = 0;
  /// Calls body(context, task, thread) for task 0 to tasks - 1, each once, on any thread, and returns when all are done.
  /// Which thread takes a task must not influence results: split work by data, never by the number of threads.
  virtual void run(int64_t tasks, void (*body)(void* context, int64_t task, int thread), void* context) = 0;

  template <class F>
  DT_INLINE void each(int64_t tasks, F&& f) {
    run(tasks, [](void* c, int64_t task, int thread) { (*static_cast<std::remove_reference_t<F>*>(c))(task, thread); }, &f);
  }
};

struct Call {
  /// Operands in the op table's order; null where an optional input or an unwanted output is absent.
  const Tensor* const* inputs;
  const Tensor* const* outputs;
  /// The op's attribute struct of abi.h.
  const void* attributes;
  /// The op's scalars, resolved, in the op table's order.
  const double* scalars;
  /// 64-byte aligned scratch memory of the size that the op's `workspace` rule asked for; null if none.
  std::byte* workspace;
  size_t workspace_bytes;
  Pool* pool;
  int rank;
  int ranks;

  DT_INLINE const Tensor& in(int i) const { return *inputs[i]; }
  DT_INLINE const Tensor& out(int i) const { return *outputs[i]; }
  DT_INLINE bool has_in(int i) const { return inputs[i] != nullptr; }
  DT_INLINE bool has_out(int i) const { return outputs[i] != nullptr; }
  template <class A>
  DT_INLINE const A& attrs() const { return *static_cast<const A*>(attributes); }
};

using Kernel = void (*)(const Call&);

/// target = (base +) sources[0] + sources[1] + ..., `elements` of each: what collectives add up. Base and target are of one dtype,
/// that of the sources or f32. The target may be any one of the operands of its dtype.
struct SumOfRanks {
  DType source, target_dtype;
  void* target;
  const void* base;
  const void* const* sources;
  int count;
  int64_t elements;
  /// Rounded once at the end instead of after each addition.
  bool once;
  Pool* pool;
};

/// The kernels of one instruction set, by opcode; null where there is none.
struct KernelTable {
  static constexpr int size = 512;
  const char* isa;
  Kernel kernels[size];
  void (*sum)(const SumOfRanks&);
  /// Multiply-adds of operands of a dtype in registers; gives the floating-point operations that they were.
  double (*multiply_adds)(DType, int64_t rounds);
  /// to += from / 2, `count` a multiple of 16: 12 bytes through memory for each element.
  void (*stream)(float* to, const float* from, int64_t count);
};

}  // namespace deeptroupe
