// Collectives over shared memory: each rank reads its peers' arenas between two barriers and writes only its own.
// Sums are taken in rank order, element by element, ((base + x0) + x1) + ..., so their bits depend on nothing else.
#pragma once

#include <vector>

#include "../../kernels/abi/abi.h"
#include "../../kernels/cpu/kernel.h"
#include "../memory/arena.h"
#include "communicator.h"

namespace deeptroupe {

/// A tensor's place in the memory of any rank.
struct Place {
  uint32_t arena = 0;
  uint64_t offset = 0;
  uint32_t dtype = 0;
  int64_t elements = 0;
  uint64_t bytes() const { return static_cast<uint64_t>(elements) * abi::dtype_bytes[dtype]; }
};

struct CollectiveCall {
  abi::Opcode opcode;
  const void* attributes;
  const Place* input;
  const Place* base;
  const Place* output;
};

/// The rank that takes part, with what it needs.
struct CollectiveRank {
  int rank;
  Communicator& communicator;
  const std::vector<RankMemory>& memory;
  Pool& pool;
  const KernelTable& kernels;
};

bool is_collective(abi::Opcode opcode);

/// What a rank tells the others of the collective that it begins.
Announcement announcement_of(const CollectiveCall& call);

/// Empty where the operands' sizes and dtypes fit the collective, else what is wrong, as "what, expected X, got Y".
/// That operands overlap only where peers do not read is checked by native/verify.ts.
std::string check_collective(const CollectiveCall& call, int ranks);

/// Throws Aborted.
void run_collective(const CollectiveCall& call, const CollectiveRank& me);

}  // namespace deeptroupe
