// How the tensor cores' backward passes add up dQ, whose terms come from all blocks of keys of a pair.
// It is summed in f32 in the call's workspace, over the blocks of keys in ascending order: a warp adds its part of a tile of queries when
// a flag tells that the block before has added the same part. It starts its product from the sum so far, and the last block rounds and
// stores. On Hopper the copy engine adds whole tiles, in the same order of blocks, while the block goes on. So a sum's order is fixed, no
// T x T tensor exists, and one product in five is not computed twice, as it would be in a pass of dQ's own (seven products). A block takes
// its work from a counter in the order of `Order`, so it waits only for blocks that have started before it, whatever the order in which
// the device dispatches them: no deadlock. All blocks of a pair begin with the last queries, where under causal attention all of them
// have work, and start in the order in which they add: they follow each other without waiting (descending queries: DASH, arXiv
// 2601.21824).
#pragma once

#include "attention.h"
#include "hopper.h"

#if !defined(__HIP__)

namespace deeptroupe::gpu {

/// What the blocks of 128 keys tell each other; tiles of queries are numbered pair by pair.
struct Exchange {
  /// -log2(e) * lse and delta of each query, and (-infinity, 0) past the sequence, where they make every gradient 0.
  float2* statistics;
  /// Sums of dQ so far, in the order in which the warps hold them; none where one block has all keys.
  float4* sums;
  /// For each tile, or each tile and warp, how many blocks of keys have added to its sum.
  unsigned* added;
  unsigned* ticket;
};

/// Lays the exchange out in the call's workspace, for tiles of `queries` queries with `parts` flags each, and enqueues the kernel that
/// fills in the statistics and clears flags and ticket.
Exchange prepare_backward(const Call& call, const Plan& plan, int queries, int parts);

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
/// Waits until `blocks` blocks have added to what `flag` counts for.
__device__ inline void await_turn(const unsigned* flag, int blocks) {
  unsigned seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
  } while (seen != static_cast<unsigned>(blocks));
  fence_async_global();
}
/// Lets the next block pass when this thread's copies to global memory have ended.
__device__ inline void end_turn(unsigned* flag, int block) {
  fence_async_global();
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(block + 1) : "memory");
}
#endif

/// A warp's place in the order of additions to its part of dQ of one tile after the other; all lanes call these together.
class Additions {
 public:
  __device__ explicit Additions(int block) : block_(static_cast<unsigned>(block)) {}

  /// Goes on to the part that `flag` counts for: begins to look, without waiting.
  __device__ void look(unsigned* flag) {
    flag_ = flag;
    if (block_ > 0) seen_ = load_coherent(flag_);
  }
  /// Waits for the blocks before. Loads that follow cannot pass this one: they are issued when the flag's value is there, and meet the
  /// sums where the flag is.
  __device__ void wait() {
    if (block_ == 0) return;
    while (seen_ != block_) seen_ = load_coherent(flag_);
  }
  /// The sum so far at `from`, 0 in the first block.
  __device__ float4 sum(const float4* from) const { return block_ > 0 ? load_coherent(from) : make_float4(0, 0, 0, 0); }
  /// This warp's stores to the part are issued. They are announced by a later `release`, when they have long arrived.
  __device__ void stored() { stored_ = flag_; }
  __device__ void release() {
    if (!stored_) return;
    __syncwarp();
    if (threadIdx.x % warp == 0) {
      fence_device();
      store_coherent(stored_, block_ + 1);
    }
    stored_ = nullptr;
  }

 private:
  unsigned block_, seen_ = 0;
  unsigned *flag_ = nullptr, *stored_ = nullptr;
};

}  // namespace deeptroupe::gpu

#endif
