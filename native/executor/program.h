// A program, decoded for one rank: every number checked, every operand an address. Bytes that pass load() can be run
// without a crash as far as records, bounds and operand counts go; that shapes fit the ops is checked before, by
// native/verify.ts.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "../../kernels/abi/abi.h"
#include "../../kernels/abi/tensor.h"
#include "../collective/collectives.h"
#include "../memory/arena.h"

namespace deeptroupe {

/// The bytes are no program that this build can run on this rank. The message says what, what was expected and what
/// came.
struct ProgramError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ProgramTensor {
  Place place;
  Tensor tensor;
};

struct ProgramInstruction {
  const abi::OpInfo* op = nullptr;
  /// Has no kernel: the executor runs it itself.
  bool collective = false;
  /// Operands padded to the op's full number; null where absent.
  std::vector<const ProgramTensor*> inputs, outputs;
  std::vector<const Tensor*> input_tensors, output_tensors;
  std::vector<uint32_t> scalars;
  const void* attributes = nullptr;
  const ProgramTensor* workspace = nullptr;
};

struct Program {
  std::vector<uint64_t> bytes;
  uint32_t scalar_count = 0;
  std::vector<ProgramTensor> tensors;
  std::vector<ProgramInstruction> instructions;
};

/// What a program is decoded for.
struct ProgramTarget {
  const RankMemory& memory;
  /// The kernels, for messages.
  const char* backend;
  std::function<bool(abi::Opcode)> has_kernel;
  /// Bytes on whose border scratch memory starts.
  uint64_t alignment;
  int rank;
  int ranks;
};

/// Fills an empty program. Throws ProgramError.
void decode_program(Program& program, std::span<const std::byte> bytes, const ProgramTarget& target);

/// A kernel's call, of the CPU's or the GPU's kind, as far as the instruction alone says: operands, attributes, scratch memory.
template <class Call>
Call call_of(const ProgramInstruction& instruction) {
  Call call{};
  call.inputs = instruction.input_tensors.data();
  call.outputs = instruction.output_tensors.data();
  call.attributes = instruction.attributes;
  if (instruction.workspace) {
    call.workspace = instruction.workspace->tensor.template as<std::byte>();
    call.workspace_bytes = instruction.workspace->place.bytes();
  }
  return call;
}

/// What the collective in `instruction` works on.
CollectiveCall collective_call(const ProgramInstruction& instruction);

}  // namespace deeptroupe
