// What the paths of attention share: a call's plan, dropout's choice, and the order in which blocks take their work.
// Every path is deterministic, keeps memory linear in the sequence, and adds in an order that the shape alone fixes.
// Legend: B batch, T sequence, H heads, D head size; a pair is a (batch, head), its index b * H + h.
#pragma once

#include "kernel.h"
#include "../abi/random.h"

namespace deeptroupe::gpu {

/// Dropout's attributes, and where its scalars lie. An element is kept where its word is at least the threshold.
struct Dropout {
  bool active;
  /// False with p = 1, whose threshold 2^32 fits no word: every element is dropped.
  bool possible;
  uint32_t threshold, op_id;
  /// 1 / (1 - p), by which a kept probability is multiplied, and 0 with p = 1.
  float factor;
  const double *seed, *step, *sample;
};

/// The dynamic shared memory of every kernel of attention.
extern __shared__ __attribute__((aligned(16))) unsigned char attention_shared[];

/// What one call's attributes and shapes come to. Kernels get it by value.
struct Plan {
  int batch, sequence, heads, size;
  bool causal;
  float scale;
  Dropout dropout;

  __host__ __device__ int pairs() const { return batch * heads; }
  /// Elements of a position in o and in qkv.
  __host__ __device__ int hidden() const { return heads * size; }
  __host__ __device__ int width() const { return 3 * hidden(); }
  /// Where a pair begins: its first position in qkv and in o.
  __device__ int64_t qkv_offset(int pair) const {
    return static_cast<int64_t>(pair / heads) * sequence * width() + pair % heads * size;
  }
  __device__ int64_t o_offset(int pair) const {
    return static_cast<int64_t>(pair / heads) * sequence * hidden() + pair % heads * size;
  }
};

/// Dropout of one pair: what element (query, key) draws.
struct Mask {
  uint32_t key[2], counter[3], threshold;
  bool possible;
  uint64_t first;
  int sequence;

  __device__ Mask(const Plan& plan, int pair) {
    const Dropout& d = plan.dropout;
    if (!d.active) return;
    const uint64_t seed = static_cast<uint64_t>(*d.seed);
    key[0] = static_cast<uint32_t>(seed), key[1] = static_cast<uint32_t>(seed >> 32);
    counter[0] = d.op_id, counter[1] = static_cast<uint32_t>(static_cast<uint64_t>(*d.step));
    counter[2] = static_cast<uint32_t>(static_cast<uint64_t>(*d.sample)) + static_cast<uint32_t>(pair / plan.heads);
    threshold = d.threshold, possible = d.possible, sequence = plan.sequence;
    first = static_cast<uint64_t>(pair % plan.heads) * sequence * sequence;
  }

  __device__ uint64_t element(int query, int key) const { return first + static_cast<uint64_t>(query) * sequence + key; }

  /// Bit w tells whether element 4 * block + w is kept.
  __device__ uint32_t kept_of_block(uint64_t block) const {
    const uint32_t whole[4] = {counter[0], counter[1], counter[2], static_cast<uint32_t>(block)};
    uint32_t words[4];
    philox4x32(whole, key, words);
    uint32_t kept = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) kept |= (words[w] >= threshold ? 1u : 0u) << w;
    return possible ? kept : 0;
  }
  __device__ bool kept(int query, int key) const {
    const uint64_t e = element(query, key);
    return kept_of_block(e / 4) >> (e % 4) & 1;
  }
};

/// The order of work: pairs in groups whose operands stay in the second-level cache together; in a group the first blocks of all
/// pairs, then the second, and so on. With the heavy blocks first the light ones fill the end, and the blocks of one pair start apart.
struct Order {
  int pairs, blocks, group;

  Order(const Call& call, int pairs, int blocks, int64_t bytes_of_pair) : pairs(pairs), blocks(blocks) {
    const int64_t fit = static_cast<int64_t>(call.device->l2_bytes / 2) / bytes_of_pair;
    group = static_cast<int>(fit < 1 ? 1 : fit < pairs ? fit : pairs);
  }
  __host__ __device__ unsigned count() const { return static_cast<unsigned>(pairs) * static_cast<unsigned>(blocks); }
  __device__ void at(unsigned item, int& pair, int& block) const {
    const unsigned of_group = static_cast<unsigned>(group) * static_cast<unsigned>(blocks);
    const unsigned g = item / of_group, rest = item % of_group, begin = g * group;
    const unsigned here = static_cast<unsigned>(pairs) - begin < static_cast<unsigned>(group) ? pairs - begin : group;
    block = static_cast<int>(rest / here), pair = static_cast<int>(begin + rest % here);
  }
};

__host__ __device__ inline int divide_up(int a, int b) { return (a + b - 1) / b; }

#if !defined(__HIP__)
/// The tensor cores' path, for bf16 and f16 (attention-mma-forward.cu, attention-mma-backward.cu).
void forward_mma(const Call& call, const Plan& plan);
void backward_mma(const Call& call, const Plan& plan);
/// Whether that path takes the call: by dtype, head size, scale, alignment and chip.
bool has_forward_mma(const Call& call, const Plan& plan);
bool has_backward_mma(const Call& call, const Plan& plan);

/// The path of Hopper's warpgroups (attention-hopper-forward.cu, attention-hopper-backward.cu).
void forward_hopper(const Call& call, const Plan& plan);
void backward_hopper(const Call& call, const Plan& plan);
bool has_forward_hopper(const Call& call, const Plan& plan);
bool has_backward_hopper(const Call& call, const Plan& plan);
#endif

/// The path that takes everything (attention-portable.cu).
void forward_portable(const Call& call, const Plan& plan);
void backward_portable(const Call& call, const Plan& plan);

}  // namespace deeptroupe::gpu
