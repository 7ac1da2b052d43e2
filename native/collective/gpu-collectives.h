// The collectives of kernels/ops/collective.ts on device tensors: by copies between the ranks' memories, and over NCCL.
#pragma once

#include "../../kernels/gpu/kernel.h"
#include "nccl.h"
#include "peers.h"

namespace deeptroupe::gpu {

/// Enqueues a collective on the call's stream. `nccl` is null where the call has one rank, `peers` there and where NCCL is to
/// move everything. Operands were checked (check_collective); workspace as kernels/gpu/workspace.ts asks: no other stream may use it
/// meanwhile. Throws Error.
void enqueue_collective(abi::Opcode opcode, const Call& call, NcclRank* nccl, Peers* peers);

}  // namespace deeptroupe::gpu
