// The collectives of kernels/ops/collective.ts on device tensors: by copies between the ranks' memories, or over NCCL.
#pragma once

#include "../../kernels/gpu/kernel.h"
#include "nccl.h"
#include "peers.h"

namespace deeptroupe::gpu {

/// Enqueues a collective on the call's stream. Of `nccl` and `peers`, the one that is to move things is not null; none for a call of one
/// rank. False: peers have not come; to be called again, until all is enqueued. Operands were checked (check_collective); workspace as
/// kernels/gpu/workspace.ts asks: no other stream may use it meanwhile. Throws Error.
bool enqueue_collective(abi::Opcode opcode, const Call& call, NcclRank* nccl, Peers* peers);

}  // namespace deeptroupe::gpu
