// Attention backward on Hopper's warpgroups, for heads of 64 and 128, as attention-mma-backward.cu does it: scores transposed, so that
// probabilities and gradients of scores go from the registers that they were computed in into the products for dV and dK; dQ added up
// over the blocks of keys (attention-backward.h). A block stays on its multiprocessor and takes one piece of work, 128 keys of a pair,
// after the other. Two warpgroups have 64 of the keys each; one warp more has the copies made ahead, those of the next piece while this
// one ends. The gradients of scores of both groups meet in shared memory, from where each computes half of dQ's tile.
// Source: FlashAttention-3 (arXiv 2407.08608).
#include "attention-backward.h"
#include "attention-hopper.h"

#include <cmath>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

namespace {

constexpr int KEYS = 128;
/// No piece of work is left.
constexpr unsigned NONE = 0xffffffff;

template <int D>
struct Hopper {
  static constexpr int groups = 2, warps = 4 * groups, threads = 128 * (groups + 1);
  /// Queries of a tile: registers allow 128 where sums are small.
  static constexpr int queries = D == 64 ? 128 : 64;
  static constexpr int boxes = D / BOX, size_tiles = D / 8, query_tiles = queries / 8, query_steps = queries / 16;
  /// Bytes of a box of as many rows, which is the distance to the next columns.
  static constexpr int keys_box = KEYS * BOX * 2, queries_box = queries * BOX * 2;
  static constexpr int keys_bytes = boxes * keys_box, queries_bytes = boxes * queries_box, ds_bytes = KEYS * queries * 2;
  /// Two places for k and v, two for q, two for do, two for gradients of scores as [key][query], two for statistics.
  static constexpr int places = 2, keys_at = 0, values_at = keys_at + places * keys_bytes, q_at = values_at + places * keys_bytes;
  static constexpr int d_at = q_at + places * queries_bytes, ds_at = d_at + places * queries_bytes;
  static constexpr int statistics_bytes = queries * 8, statistics_at = ds_at + places * ds_bytes;
  static constexpr int barriers_at = statistics_at + places * statistics_bytes;
  static constexpr int kv_full = barriers_at, kv_empty = kv_full + 8 * places, q_full = kv_empty + 8 * places, q_empty = q_full + 8 * places;
  static constexpr int d_full = q_empty + 8 * places, d_empty = d_full + 8 * places, items_at = d_empty + 8 * places;
  /// The block's memory begins on a border of 1,024 bytes within what it gets.
  static constexpr size_t shared_bytes = items_at + 4 * places + 1024;
  /// Registers of a thread that copies and of one that computes; 168 on average.
  static constexpr int few = 24, many = 240;
};

template <class T, int D>
__global__ void __launch_bounds__(Hopper<D>::threads, 1)
    attention_hopper_backward(const Plan plan, const Order order, const Exchange exchange, const __grid_constant__ CUtensorMap qkv_map,
                              const __grid_constant__ CUtensorMap d_map, T* __restrict__ dqkv) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using H = Hopper<D>;
  const uint32_t whole = shared_address(attention_shared), shared = (whole + 1023) & ~1023u;
  unsigned char* const memory = attention_shared + (shared - whole);
  unsigned* const items = reinterpret_cast<unsigned*>(memory + H::items_at);
  if (threadIdx.x == 0) {
    for (int s = 0; s < H::places; ++s) {
      for (const int full : {H::kv_full, H::q_full, H::d_full}) init_barrier(shared + full + 8 * s, 1);
      for (const int empty : {H::kv_empty, H::q_empty, H::d_empty}) init_barrier(shared + empty + 8 * s, H::warps);
    }
    fence_barriers();
  }
  __syncthreads();

  const int sequence = plan.sequence, width = plan.width(), hidden = plan.hidden();
  const int all_tiles = divide_up(sequence, H::queries);
  const int group = static_cast<int>(threadIdx.x) / warpgroup - 1, lane = static_cast<int>(threadIdx.x) % warp;
  int pair, block;
  Place<H::places> kv_place, q_place;

  if (group < 0) {
    shrink_registers<H::few>();
    if (threadIdx.x == 0) {
      for (;;) {
        const unsigned item = atomicAdd(exchange.ticket, 1u);
        const uint32_t kv_full = shared + H::kv_full + 8 * kv_place.stage;
        wait_for(shared + H::kv_empty + 8 * kv_place.stage, kv_place.parity ^ 1);
        if (item >= order.count()) {
          items[kv_place.stage] = NONE;
          arrive(kv_full);
          break;
        }
        items[kv_place.stage] = item;
        order.at(item, pair, block);
        const int batch = pair / plan.heads, x = pair % plan.heads * D, first_key = block * KEYS;
        arrive_expecting(kv_full, 2 * H::keys_bytes);
        for (int i = 0; i < 2 * H::boxes; ++i) {
          const int column = x + i / 2 * BOX, row = first_key + i % 2 * BOX;
          copy_box(shared + H::keys_at + kv_place.stage * H::keys_bytes + i * BOX_BYTES, qkv_map, kv_full, hidden + column, row, batch);
          copy_box(shared + H::values_at + kv_place.stage * H::keys_bytes + i * BOX_BYTES, qkv_map, kv_full, 2 * hidden + column, row, batch);
        }
        kv_place.advance();
        for (int tile = all_tiles - 1; tile >= (plan.causal ? first_key / H::queries : 0); --tile) {
          constexpr int rows = H::queries / BOX;
          const uint32_t q_full = shared + H::q_full + 8 * q_place.stage, d_full = shared + H::d_full + 8 * q_place.stage;
          wait_for(shared + H::q_empty + 8 * q_place.stage, q_place.parity ^ 1);
          arrive_expecting(q_full, H::queries_bytes + H::statistics_bytes);
          copy_bytes(shared + H::statistics_at + q_place.stage * H::statistics_bytes,
                     exchange.statistics + (static_cast<int64_t>(pair) * all_tiles + tile) * H::queries, H::statistics_bytes, q_full);
          for (int i = 0; i < rows * H::boxes; ++i) {
            copy_box(shared + H::q_at + q_place.stage * H::queries_bytes + i * BOX_BYTES, qkv_map, q_full, x + i / rows * BOX,
                     tile * H::queries + i % rows * BOX, batch);
          }
          wait_for(shared + H::d_empty + 8 * q_place.stage, q_place.parity ^ 1);
          arrive_expecting(d_full, H::queries_bytes);
          for (int i = 0; i < rows * H::boxes; ++i) {
            copy_box(shared + H::d_at + q_place.stage * H::queries_bytes + i * BOX_BYTES, d_map, d_full, x + i / rows * BOX,
                     tile * H::queries + i % rows * BOX, batch);
          }
          q_place.advance();
        }
      }
    }
    return;
  }

  grow_registers<H::many>();
  const float factor = plan.scale * 1.4426950408889634f;
  const int thread = static_cast<int>(threadIdx.x) - warpgroup, warp_index = thread / warp;
  const int warp_key = warp_index * 16, r = lane / 4, c = lane % 4;
  const auto release = [&](int barrier, int place) {
    if (lane == 0) arrive(shared + barrier + 8 * place);
  };

  for (;;) {
    const int kv = kv_place.stage;
    wait_for(shared + H::kv_full + 8 * kv, kv_place.parity);
    const unsigned item = items[kv];
    if (item == NONE) break;
    order.at(item, pair, block);
    kv_place.advance();
    const int first_key = block * KEYS, tiles = all_tiles - (plan.causal ? first_key / H::queries : 0);
    const int64_t first_tile = static_cast<int64_t>(pair) * all_tiles;
    const uint32_t k_tile = shared + H::keys_at + kv * H::keys_bytes, v_tile = shared + H::values_at + kv * H::keys_bytes;
    float dk[H::size_tiles][4], dv[H::size_tiles][4];
    Additions additions(block);

#pragma unroll 1
    for (int index = 0; index < tiles; ++index) {
      const int tile = all_tiles - 1 - index, first_query = tile * H::queries, place = q_place.stage;
      const uint32_t q_tile = shared + H::q_at + place * H::queries_bytes, d_tile = shared + H::d_at + place * H::queries_bytes;
      float4* const sums = exchange.sums + (first_tile + tile) * (H::queries * D / 4) + thread;
      additions.look(exchange.added + (first_tile + tile) * H::warps + warp_index);
      float scores[H::query_tiles][4], dp[H::query_tiles][4], dq[8][4];
      uint32_t p[H::query_steps][4], ds[H::query_steps][4];

      wait_for(shared + H::q_full + 8 * place, q_place.parity);
      begin_products();
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        multiply_tiles<T>(scores, along_rows(k_tile + d / 4 * H::keys_box + group * BOX_BYTES + d % 4 * 32),
                          along_rows(q_tile + d / 4 * H::queries_box + d % 4 * 32), d > 0);
      }
      commit_products();
      wait_for(shared + H::d_full + 8 * place, q_place.parity);
      begin_products();
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        multiply_tiles<T>(dp, along_rows(v_tile + d / 4 * H::keys_box + group * BOX_BYTES + d % 4 * 32),
                          along_rows(d_tile + d / 4 * H::queries_box + d % 4 * 32), d > 0);
      }
      commit_products();

      wait_products<1>();
      settle(scores);
      const int group_key = first_key + group * 64;
      if ((plan.causal && first_query < group_key + 63) || group_key + 64 > sequence) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = first_key + warp_key + r + half * 8;
          const int from = key >= sequence ? first_query + H::queries : plan.causal ? key : 0;
#pragma unroll
          for (int n = 0; n < H::query_tiles; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (first_query + n * 8 + c * 2 + e < from) scores[n][2 * half + e] = -INFINITY;
            }
          }
        }
      }
      const float4* const statistics = reinterpret_cast<const float4*>(memory + H::statistics_at + place * H::statistics_bytes) + c;
#pragma unroll
      for (int n = 0; n < H::query_tiles; ++n) {
        const float4 two = statistics[n * 4];
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[n][e] = exp2_fast(fmaf(scores[n][e], factor, e % 2 ? two.z : two.x));
      }
      wait_products<0>();
      settle(dp);
      unsigned char* const to = memory + H::ds_at + place * H::ds_bytes + (warp_key + r) * 128 + c * 4;
#pragma unroll
      for (int k = 0; k < H::query_steps; ++k) {
#pragma unroll
        for (int n = 2 * k; n < 2 * k + 2; ++n) {
          const float4 two = statistics[n * 4];
#pragma unroll
          for (int e = 0; e < 4; ++e) dp[n][e] = scores[n][e] * (dp[n][e] - (e % 2 ? two.w : two.y));
        }
        to_operand<T>(p[k], scores[2 * k], scores[2 * k + 1]);
        to_operand<T>(ds[k], dp[2 * k], dp[2 * k + 1]);
#pragma unroll
        for (int u = 0; u < 4; ++u) {
          const int n = 2 * k + u / 2;
          *reinterpret_cast<uint32_t*>(to + n / 8 * H::keys_box + u % 2 * 8 * 128 + (n % 8 ^ r) * 16) = ds[k][u];
        }
      }
      fence_async();

      begin_products();
#pragma unroll
      for (int k = 0; k < H::query_steps; ++k) {
        multiply_fragments<T>(dv, p[k], across_rows(d_tile + k * 2048, H::queries_box), index > 0 || k > 0);
      }
      commit_products();
#pragma unroll
      for (int k = 0; k < H::query_steps; ++k) {
        multiply_fragments<T>(dk, ds[k], across_rows(q_tile + k * 2048, H::queries_box), index > 0 || k > 0);
      }
      commit_products();

      // The sum so far is on its way while these products run.
      additions.release();
      additions.wait();
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float4 sum = additions.sum(sums + n * 128 * H::groups);
        dq[n][0] = sum.x, dq[n][1] = sum.y, dq[n][2] = sum.z, dq[n][3] = sum.w;
      }
      // The gradients of scores of both groups are there; a place's are read until the next tile's barrier and written again after it.
      sync_threads<warpgroup * H::groups>(1);
      // Of 128 queries each group takes half, of 64 queries half of the columns.
      constexpr bool by_query = H::queries == 128;
      const uint32_t ds_tile = shared + H::ds_at + place * H::ds_bytes + (by_query ? group * H::keys_box : 0);
      const uint32_t dq_keys = k_tile + (by_query ? 0 : group * H::keys_box);
      begin_products();
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) {
        multiply_across<T>(dq, across_rows(ds_tile + k * 2048, 0), across_rows(dq_keys + k * 2048, 0), true);
      }
      commit_products();
      wait_products<2>();
      settle(dv);
      release(H::d_empty, place);
      wait_products<1>();
      settle(dk);
      release(H::q_empty, place);
      wait_products<0>();
      settle(dq);
      q_place.advance();

      const int last_block = plan.causal ? first_query / KEYS : (sequence - 1) / KEYS;
      if (block < last_block) {
#pragma unroll
        for (int n = 0; n < 8; ++n) store_coherent(sums + n * 128 * H::groups, make_float4(dq[n][0], dq[n][1], dq[n][2], dq[n][3]));
        additions.stored();
      } else {
        T* const out = dqkv + plan.qkv_offset(pair) + (by_query ? 0 : group * BOX) + c * 2;
        const int first_row = first_query + (by_query ? warp_key : warp_key % 64) + r;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = first_row + half * 8;
          if (row >= sequence) continue;
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            *reinterpret_cast<uint32_t*>(out + static_cast<int64_t>(row) * width + n * 8) =
                pack<T>(dq[n][2 * half] * plan.scale, dq[n][2 * half + 1] * plan.scale);
          }
        }
      }
    }
    additions.release();

    // A warp's results go out through its own rows of keys and values, once no group reads the keys any more.
    sync_threads<warpgroup * H::groups>(1);
    unsigned char* const mine = memory + H::keys_at + kv * H::keys_bytes + warp_key * 128;
    constexpr int to_values = H::values_at - H::keys_at;
#pragma unroll
    for (int n = 0; n < H::size_tiles; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        unsigned char* const to = mine + n / 8 * H::keys_box + (half * 8 + r) * 128 + (n % 8 ^ r) * 16 + c * 4;
        *reinterpret_cast<uint32_t*>(to) = pack<T>(dk[n][2 * half] * plan.scale, dk[n][2 * half + 1] * plan.scale);
        *reinterpret_cast<uint32_t*>(to + to_values) = pack<T>(dv[n][2 * half], dv[n][2 * half + 1]);
      }
    }
    __syncwarp();
    T* const out = dqkv + plan.qkv_offset(pair) + hidden;
#pragma unroll
    for (int i = lane; i < 16 * (D / 8); i += warp) {
      const int row = i / (D / 8), chunk = i % (D / 8), key = first_key + warp_key + row;
      if (key >= sequence) continue;
      const unsigned char* const from = mine + chunk / 8 * H::keys_box + row * 128 + (chunk % 8 ^ row % 8) * 16;
      T* const at = out + static_cast<int64_t>(key) * width + chunk * 8;
      *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(from);
      *reinterpret_cast<uint4*>(at + hidden) = *reinterpret_cast<const uint4*>(from + to_values);
    }
    fence_async();
    __syncwarp();
    release(H::kv_empty, kv);
  }
#endif
}

template <class T, int D>
void enqueue(const Call& call, const Plan& plan) {
  using H = Hopper<D>;
  allow_shared_once<attention_hopper_backward<T, D>>(H::shared_bytes);
  const Exchange exchange = prepare_backward(call, plan, H::queries, H::warps);
  const Order order(call, plan.pairs(), divide_up(plan.sequence, KEYS), int64_t{8} * plan.sequence * D);
  const unsigned blocks = static_cast<unsigned>(call.device->multiprocessors);
  launch(attention_hopper_backward<T, D>, dim3(order.count() < blocks ? order.count() : blocks), dim3(H::threads), H::shared_bytes,
         call.stream, plan, order, exchange, box_map(call.in(1)), box_map(call.in(0)), call.out(0).as<T>());
}

}  // namespace

bool has_backward_hopper(const Call& call, const Plan& plan) {
  return fits_hopper(call, plan, {call.in(0).data, call.in(1).data, call.in(2).data, call.out(0).data});
}

void backward_hopper(const Call& call, const Plan& plan) {
  with_hopper_types(call.in(1).dtype, plan.size, [&]<class T, int D>() { enqueue<T, D>(call, plan); });
}

}  // namespace deeptroupe::gpu

#endif
