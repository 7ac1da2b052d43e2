// A program, decoded for one rank: every number checked, every operand an address. Bytes that pass load() can be run
// without a crash as far as records, bounds and operand counts go; that shapes fit the ops is checked before, by
// native/verify.ts.
#pragma once

#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "../../kernels/abi/abi.h"
#include "../../kernels/cpu/kernel.h"
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
  /// Null for collectives, which the executor runs itself.
  Kernel kernel = nullptr;
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

struct ProgramTarget {
  const RankMemory& memory;
  const KernelTable& kernels;
  int rank;
  int ranks;
};

/// Throws ProgramError.
std::shared_ptr<const Program> load_program(std::span<const std::byte> bytes, const ProgramTarget& target);

/// What the collective in `instruction` works on.
CollectiveCall collective_call(const ProgramInstruction& instruction);

}  // namespace deeptroupe
