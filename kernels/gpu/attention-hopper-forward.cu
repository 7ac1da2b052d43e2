// Attention forward on Hopper's warpgroups, for heads of 64 and 128. A block stays on its multiprocessor and takes one piece of work
// after the other: 128 queries of a pair, 64 to a warpgroup. One warp more has the copies made ahead: q once for a piece, tiles of 128
// keys and of values as their places in a ring become free, the next piece's while this one ends.
// A warpgroup starts the product for the next scores and the one of the last probabilities with the values, and takes the scores'
// exponentials while the second runs. The warpgroups do not wait for each other: while one waits for products another is in its softmax,
// and where both are they fill the unit of exponentials, which one alone does not.
// Rows, order of sums and the rescaling are those of attention-mma-forward.cu.
// Source: FlashAttention-3 (arXiv 2407.08608).
#include "attention-hopper.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <vector>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

namespace {

constexpr int KEYS = 128;

template <int D>
struct Hopper {
  static constexpr int groups = 2, queries = 64 * groups, threads = 128 * (groups + 1);
  static constexpr int stages = D == 64 ? 4 : 2;
  /// Boxes side by side that make a row.
  static constexpr int boxes = D / BOX, size_tiles = D / 8, key_tiles = KEYS / 8;
  static constexpr int group_bytes = BOX * D * 2, tile_bytes = KEYS * D * 2, stride = stride_of<D>;
  static constexpr int q_at = 0, keys_at = groups * group_bytes, values_at = keys_at + stages * tile_bytes;
  static constexpr int out_at = values_at + stages * tile_bytes, barriers_at = out_at + queries * stride;
  /// Of q, and of each place of keys and of values: one that it is full, one that it is empty.
  static constexpr int q_full = barriers_at, q_empty = q_full + 8, k_full = q_empty + 8, k_empty = k_full + 8 * stages;
  static constexpr int v_full = k_empty + 8 * stages, v_empty = v_full + 8 * stages;
  /// The block's memory begins on a border of 1,024 bytes within what it gets.
  static constexpr size_t shared_bytes = v_empty + 8 * stages + 1024;
  /// Registers of a thread that copies and of one that computes; 168 on average.
  static constexpr int few = 24, many = 240;
};

/// The pieces of work of this block in turn: up and down the order, so that heavy and light rounds even out.
struct Pieces {
  unsigned count, round = 0;
  __device__ explicit Pieces(const Order& order) : count(order.count()) {}
  __device__ bool next(unsigned& item) {
    while (round * gridDim.x < count) {
      item = round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
      ++round;
      if (item < count) return true;
    }
    return false;
  }
};

template <class T, int D>
__global__ void __launch_bounds__(Hopper<D>::threads, 1)
    attention_hopper(const Plan plan, const Order order, const __grid_constant__ CUtensorMap map, T* __restrict__ o, float* __restrict__ lse) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using H = Hopper<D>;
  const uint32_t whole = shared_address(attention_shared), shared = (whole + 1023) & ~1023u;
  unsigned char* const memory = attention_shared + (shared - whole);
  if (threadIdx.x == 0) {
    init_barrier(shared + H::q_full, 1), init_barrier(shared + H::q_empty, 4 * H::groups);
    for (int s = 0; s < H::stages; ++s) {
      init_barrier(shared + H::k_full + 8 * s, 1), init_barrier(shared + H::k_empty + 8 * s, 4 * H::groups);
      init_barrier(shared + H::v_full + 8 * s, 1), init_barrier(shared + H::v_empty + 8 * s, 4 * H::groups);
    }
    fence_barriers();
  }
  __syncthreads();

  const int sequence = plan.sequence, hidden = plan.hidden();
  const auto tiles_of = [&](int first_query) {
    return divide_up(plan.causal && first_query + H::queries < sequence ? first_query + H::queries : sequence, KEYS);
  };
  Pieces pieces(order);
  unsigned item;
  int pair, rank;
  const int group = static_cast<int>(threadIdx.x) / warpgroup - 1, lane = static_cast<int>(threadIdx.x) % warp;

  if (group < 0) {
    shrink_registers<H::few>();
    if (threadIdx.x == 0) {
      Place<1> q_place;
      Place<H::stages> k_place, v_place;
      while (pieces.next(item)) {
        order.at(item, pair, rank);
        const int batch = pair / plan.heads, x = pair % plan.heads * D, first_query = (order.blocks - 1 - rank) * H::queries;
        const int tiles = tiles_of(first_query);
        wait_for(shared + H::q_empty, q_place.parity ^ 1);
        arrive_expecting(shared + H::q_full, H::groups * H::group_bytes);
        for (int i = 0; i < H::groups * H::boxes; ++i) {
          copy_box(shared + H::q_at + i * BOX_BYTES, map, shared + H::q_full, x + i % H::boxes * BOX, first_query + i / H::boxes * BOX, batch);
        }
        q_place.advance();
        const auto copy_tile = [&](int at, int full, int empty, Place<H::stages>& place, int column, int tile) {
          wait_for(shared + empty + 8 * place.stage, place.parity ^ 1);
          arrive_expecting(shared + full + 8 * place.stage, H::tile_bytes);
          for (int i = 0; i < 2 * H::boxes; ++i) {
            copy_box(shared + at + place.stage * H::tile_bytes + i * BOX_BYTES, map, shared + full + 8 * place.stage, column + i / 2 * BOX,
                     tile * KEYS + i % 2 * BOX, batch);
          }
          place.advance();
        };
        for (int tile = 0; tile <= tiles; ++tile) {
          if (tile < tiles) copy_tile(H::keys_at, H::k_full, H::k_empty, k_place, hidden + x, tile);
          if (tile > 0) copy_tile(H::values_at, H::v_full, H::v_empty, v_place, 2 * hidden + x, tile - 1);
        }
      }
    }
    return;
  }

  grow_registers<H::many>();
  const float factor = plan.scale * 1.4426950408889634f;
  const int warp_row = group * 64 + static_cast<int>(threadIdx.x) % warpgroup / warp * 16;
  const uint32_t q_tile = shared + H::q_at + group * H::group_bytes;
  unsigned char* const mine = memory + H::out_at + warp_row * H::stride;
  Place<1> q_place;
  Place<H::stages> k_place, v_place;

  while (pieces.next(item)) {
    order.at(item, pair, rank);
    const int first_query = (order.blocks - 1 - rank) * H::queries, first_row = first_query + warp_row;
    const int tiles = tiles_of(first_query);
    float sums[H::size_tiles][4], scores[H::key_tiles][4];
    uint32_t p[KEYS / 16][4];
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, shrink[2];
    bool risen = false;

    const auto start_scores = [&] {
      begin_products();
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        const uint32_t box = d / 4, at = d % 4 * 32;
        multiply_tiles<T>(scores, along_rows(q_tile + box * BOX_BYTES + at),
                          along_rows(shared + H::keys_at + k_place.stage * H::tile_bytes + box * 2 * BOX_BYTES + at), d > 0);
      }
      commit_products();
    };
    const auto start_sums = [&](bool add) {
      begin_products();
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) {
        const uint32_t values = shared + H::values_at + v_place.stage * H::tile_bytes + k * 2048;
        multiply_fragments<T>(sums, p[k], across_rows(values, 2 * BOX_BYTES), add || k > 0);
      }
      commit_products();
    };
    const auto release = [&](int barrier) {
      if (lane == 0) arrive(shared + barrier);
    };
    const auto exponentiate = [&](int tile) {
      const int first_key = tile * KEYS;
      if ((plan.causal && first_key + KEYS - 1 > first_row) || first_key + KEYS > sequence) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first_row + lane / 4 + half * 8;
          const int last = plan.causal && row < sequence ? row : sequence - 1;
#pragma unroll
          for (int n = 0; n < H::key_tiles; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (first_key + n * 8 + lane % 4 * 2 + e > last) scores[n][2 * half + e] = -INFINITY;
            }
          }
        }
      }
      float here[2];
      bool any = false;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = fmaxf(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
        for (int n = 1; n < H::key_tiles; ++n) most = fmaxf(most, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
        most = fmaxf(most, shuffle_xor(most, 1));
        most = fmaxf(most, shuffle_xor(most, 2));
        here[half] = most;
        any = any || (most - top[half]) * factor > 8.0f;
      }
      risen = __any_sync(0xffffffffu, any);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float higher = risen ? fmaxf(top[half], here[half]) : top[half];
        shrink[half] = exp2_fast((top[half] - higher) * factor);
        if (risen) total[half] *= shrink[half];
        top[half] = higher;
        const float shift = -higher * factor;
#pragma unroll
        for (int n = 0; n < H::key_tiles; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            scores[n][e] = exp2_fast(fmaf(scores[n][e], factor, shift));
            total[half] += scores[n][e];
          }
        }
      }
    };
    const auto keep_probabilities = [&] {
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) to_operand<T>(p[k], scores[2 * k], scores[2 * k + 1]);
    };

    wait_for(shared + H::q_full, q_place.parity);
    wait_for(shared + H::k_full + 8 * k_place.stage, k_place.parity);
    start_scores();
    wait_products<0>();
    settle(scores);
    release(H::k_empty + 8 * k_place.stage);
    k_place.advance();
    if (tiles == 1) release(H::q_empty);
    exponentiate(0);
    keep_probabilities();
    if (tiles > 1) wait_for(shared + H::k_full + 8 * k_place.stage, k_place.parity);

#pragma unroll 1
    for (int tile = 1; tile < tiles; ++tile) {
      start_scores();
      wait_for(shared + H::v_full + 8 * v_place.stage, v_place.parity);
      start_sums(tile > 1);
      wait_products<1>();
      settle(scores);
      release(H::k_empty + 8 * k_place.stage);
      k_place.advance();
      if (tile + 1 == tiles) release(H::q_empty);
      exponentiate(tile);
      // A branch between the exponentials and the wait for the sums keeps the compiler from moving the wait up.
      if (tile + 1 < tiles) wait_for(shared + H::k_full + 8 * k_place.stage, k_place.parity);
      wait_products<0>();
      settle(sums);
      release(H::v_empty + 8 * v_place.stage);
      v_place.advance();
      keep_probabilities();
      if (risen) {
#pragma unroll
        for (int n = 0; n < H::size_tiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[n][e] *= shrink[e / 2];
        }
      }
    }

    wait_for(shared + H::v_full + 8 * v_place.stage, v_place.parity);
    start_sums(tiles > 1);
    wait_products<0>();
    settle(sums);
    release(H::v_empty + 8 * v_place.stage);
    v_place.advance();
    q_place.advance();

    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float all = total[half];
      all += shuffle_xor(all, 1);
      all += shuffle_xor(all, 2);
      const float inverse = 1.0f / all;
      const int in_warp = half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < H::size_tiles; ++n) {
        *reinterpret_cast<uint32_t*>(mine + in_warp * H::stride + n * 16 + lane % 4 * 4) =
            pack<T>(sums[n][2 * half] * inverse, sums[n][2 * half + 1] * inverse);
      }
      if (lse && lane % 4 == 0 && first_row + in_warp < sequence) {
        lse[static_cast<int64_t>(pair) * sequence + first_row + in_warp] = fmaf(top[half], plan.scale, logf(all));
      }
    }
    __syncwarp();
    store_rows<16, D>(o + plan.o_offset(pair) + static_cast<int64_t>(first_row) * hidden, mine, hidden, sequence - first_row);
  }
#endif
}

/// Of the groups of pairs that fit into the cache, the largest with which the blocks' work is most even under causal attention, where a
/// piece costs its tiles of keys and a third of one. Counts it once for a shape.
int even_group(const Order& order, int sequence, int queries, int workers) {
  static thread_local std::map<std::array<int, 5>, int> known;
  int& best = known[{order.pairs, order.group, sequence, queries, workers}];
  if (best > 0) return best;
  int64_t least = 0;
  for (int group = order.group; group > 0 && 2 * group >= order.group; group -= std::max(1, order.group / 32)) {
    std::vector<int64_t> loads(workers);
    int64_t item = 0;
    for (int begin = 0; begin < order.pairs; begin += group) {
      for (int rank = 0; rank < order.blocks; ++rank) {
        const int64_t cost = 3 * divide_up(std::min((order.blocks - rank) * queries, sequence), KEYS) + 1;
        for (int pair = begin; pair < std::min(order.pairs, begin + group); ++pair, ++item) {
          const int64_t at = item % workers;
          loads[item / workers % 2 ? workers - 1 - at : at] += cost;
        }
      }
    }
    const int64_t most = *std::max_element(loads.begin(), loads.end());
    if (best == 0 || most < least) best = group, least = most;
  }
  return best;
}

template <class T, int D>
void enqueue(const Call& call, const Plan& plan) {
  using H = Hopper<D>;
  allow_shared_once<attention_hopper<T, D>>(H::shared_bytes);
  Order order(call, plan.pairs(), divide_up(plan.sequence, H::queries), int64_t{4} * plan.sequence * D);
  const unsigned blocks = static_cast<unsigned>(call.device->multiprocessors);
  if (plan.causal && order.count() > blocks) order.group = even_group(order, plan.sequence, H::queries, static_cast<int>(blocks));
  launch(attention_hopper<T, D>, dim3(order.count() < blocks ? order.count() : blocks), dim3(H::threads), H::shared_bytes, call.stream, plan,
         order, box_map(call.in(0), BOX), call.out(0).as<T>(), call.has_out(1) ? call.out(1).as<float>() : nullptr);
}

}  // namespace

bool has_forward_hopper(const Call& call, const Plan& plan) {
  return fits_hopper(call, plan, {call.in(0).data, call.out(0).data});
}

void forward_hopper(const Call& call, const Plan& plan) {
  with_hopper_types(call.in(0).dtype, plan.size, [&]<class T, int D>() { enqueue<T, D>(call, plan); });
}

}  // namespace deeptroupe::gpu

#endif
