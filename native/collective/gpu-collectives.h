// The collectives of kernels/ops/collective.ts on device tensors: over NCCL, with one rank by copies.
#pragma once

#include "../../kernels/gpu/kernel.h"
#include "nccl.h"

namespace deeptroupe::gpu {

/// Enqueues a collective on the call's stream. `nccl` is null where the call has one rank. Operands were checked (check_collective);
/// workspace as kernels/gpu/workspace.ts asks: no other stream may use it meanwhile. Throws Error.
void enqueue_collective(abi::Opcode opcode, const Call& call, NcclRank* nccl);

}  // namespace deeptroupe::gpu
