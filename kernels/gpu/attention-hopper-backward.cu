// Attention backward on Hopper's warpgroups, for heads of 64 and 128, as attention-mma-backward.cu does it: scores transposed, so that
// probabilities and gradients of scores go from the registers that they were computed in into the products for dV and dK; dQ added up
// over the blocks of keys in ascending order. A block stays on its multiprocessor and takes one piece of work, 128 keys of a pair, after
// the other. Two warpgroups have 64 of the keys each; one warp more has the copies made ahead. The gradients of scores of both groups
// meet in shared memory, from where each computes half of dQ's tile; one more warp has the copy engine add that tile to the sum in
// global memory when it is this block's turn (attention-backward.h), so that no warp that computes waits for other blocks, except in
// the last block, which takes the sum, rounds and stores. A tile's scores are computed under the end of the tile before.
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
  static constexpr int keys_box = KEYS * BOX * 2, queries_box = queries * BOX * 2, warp_box = 16 * BOX * 2;
  static constexpr int keys_bytes = boxes * keys_box, queries_bytes = boxes * queries_box, ds_bytes = KEYS * queries * 2;
  static constexpr int dq_bytes = queries * D * 4;
  /// Two places for q, two for do, two for gradients of scores as [key][query], two for statistics; one for a tile of dQ in f32.
  static constexpr int places = 2, keys_at = 0, values_at = keys_at + keys_bytes, q_at = values_at + keys_bytes;
  static constexpr int d_at = q_at + places * queries_bytes, ds_at = d_at + places * queries_bytes, dq_at = ds_at + places * ds_bytes;
  static constexpr int statistics_bytes = queries * 8, statistics_at = dq_at + dq_bytes;
  /// Results are laid out for the copy engine where gradients of scores were, and dQ: dK, then dV.
  static constexpr int dk_at = ds_at, dv_at = ds_at + keys_bytes;
  static_assert(dv_at + keys_bytes <= statistics_at);
  static constexpr int kv_full = statistics_at + places * statistics_bytes, kv_empty = kv_full + 8, dq_full = kv_empty + 8, dq_empty = dq_full + 8;
  static constexpr int q_full = dq_empty + 8, q_empty = q_full + 8 * places, d_full = q_empty + 8 * places, d_empty = d_full + 8 * places;
  static constexpr int item_at = d_empty + 8 * places;
  /// The block's memory begins on a border of 1,024 bytes within what it gets.
  static constexpr size_t shared_bytes = item_at + 4 + 1024;
  static_assert(shared_bytes <= 227 * 1024);
  /// Registers of a thread that copies and of one that computes; 168 on average.
  static constexpr int few = 24, many = 240;
};

/// A piece of work: which tiles of queries it takes, from the last to the first, and in which of them its part of dQ is the last.
template <int D>
struct Piece {
  int pair, block, first_key, tiles, last_tiles;
  __device__ Piece(const Plan& plan, const Order& order, int all_tiles, unsigned item) {
    order.at(item, pair, block);
    first_key = block * KEYS;
    tiles = all_tiles - (plan.causal ? first_key / Hopper<D>::queries : 0);
    // Under causal attention the tiles of queries at these keys, which are the last ones taken.
    last_tiles = block == order.blocks - 1 ? tiles : plan.causal ? KEYS / Hopper<D>::queries : 0;
  }
};

template <class T, int D>
__global__ void __launch_bounds__(Hopper<D>::threads, 1)
    attention_hopper_backward(const Plan plan, const Order order, const Exchange exchange, const __grid_constant__ CUtensorMap qkv_map,
                              const __grid_constant__ CUtensorMap d_map, const __grid_constant__ CUtensorMap out_map) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using H = Hopper<D>;
  const uint32_t whole = shared_address(attention_shared), shared = (whole + 1023) & ~1023u;
  unsigned char* const memory = attention_shared + (shared - whole);
  unsigned* const item_place = reinterpret_cast<unsigned*>(memory + H::item_at);
  if (threadIdx.x == 0) {
    init_barrier(shared + H::kv_full, 1), init_barrier(shared + H::kv_empty, H::warps + 1);
    init_barrier(shared + H::dq_full, H::warps), init_barrier(shared + H::dq_empty, 1);
    for (int s = 0; s < H::places; ++s) {
      init_barrier(shared + H::q_full + 8 * s, 1), init_barrier(shared + H::q_empty + 8 * s, H::warps);
      init_barrier(shared + H::d_full + 8 * s, 1), init_barrier(shared + H::d_empty + 8 * s, H::warps);
    }
    fence_barriers();
  }
  __syncthreads();

  const int sequence = plan.sequence, hidden = plan.hidden(), all_tiles = divide_up(sequence, H::queries);
  const int group = static_cast<int>(threadIdx.x) / warpgroup - 1, lane = static_cast<int>(threadIdx.x) % warp;
  Place<1> kv_place, dq_place;
  Place<H::places> q_place;

  if (group < 0) {
    shrink_registers<H::few>();
    if (threadIdx.x == 0) {
      for (;;) {
        const unsigned item = atomicAdd(exchange.ticket, 1u);
        wait_for(shared + H::kv_empty, kv_place.parity ^ 1);
        if (item >= order.count()) {
          *item_place = NONE;
          arrive(shared + H::kv_full);
          break;
        }
        *item_place = item;
        const Piece<D> piece(plan, order, all_tiles, item);
        const int batch = piece.pair / plan.heads, x = piece.pair % plan.heads * D;
        arrive_expecting(shared + H::kv_full, 2 * H::keys_bytes);
#pragma unroll 1
        for (int i = 0; i < 2 * H::boxes; ++i) {
          const int column = x + i / 2 * BOX, row = piece.first_key + i % 2 * BOX;
          copy_box(shared + H::keys_at + i * BOX_BYTES, qkv_map, shared + H::kv_full, hidden + column, row, batch);
          copy_box(shared + H::values_at + i * BOX_BYTES, qkv_map, shared + H::kv_full, 2 * hidden + column, row, batch);
        }
        kv_place.advance();
        const auto copy_tile = [&](int at, const CUtensorMap& map, uint32_t barrier, int tile) {
          constexpr int rows = H::queries / BOX;
#pragma unroll 1
          for (int i = 0; i < rows * H::boxes; ++i) {
            copy_box(shared + at + q_place.stage * H::queries_bytes + i * BOX_BYTES, map, barrier, x + i / rows * BOX,
                     tile * H::queries + i % rows * BOX, batch);
          }
        };
#pragma unroll 1
        for (int index = 0; index < piece.tiles; ++index) {
          const int tile = all_tiles - 1 - index;
          const uint32_t q_full = shared + H::q_full + 8 * q_place.stage, d_full = shared + H::d_full + 8 * q_place.stage;
          wait_for(shared + H::q_empty + 8 * q_place.stage, q_place.parity ^ 1);
          arrive_expecting(q_full, H::queries_bytes + H::statistics_bytes);
          copy_bytes(shared + H::statistics_at + q_place.stage * H::statistics_bytes,
                     exchange.statistics + (static_cast<int64_t>(piece.pair) * all_tiles + tile) * H::queries, H::statistics_bytes, q_full);
          copy_tile(H::q_at, qkv_map, q_full, tile);
          wait_for(shared + H::d_empty + 8 * q_place.stage, q_place.parity ^ 1);
          arrive_expecting(d_full, H::queries_bytes);
          copy_tile(H::d_at, d_map, d_full, tile);
          q_place.advance();
        }
      }
    } else if (threadIdx.x == warp) {
      for (;;) {
        wait_for(shared + H::kv_full, kv_place.parity);
        const unsigned item = *item_place;
        if (item == NONE) break;
        arrive(shared + H::kv_empty);
        kv_place.advance();
        const Piece<D> piece(plan, order, all_tiles, item);
#pragma unroll 1
        for (int index = 0; index < piece.tiles - piece.last_tiles; ++index) {
          const int64_t tile = static_cast<int64_t>(piece.pair) * all_tiles + all_tiles - 1 - index;
          float4* const sums = exchange.sums + tile * (H::dq_bytes / 16);
          wait_for(shared + H::dq_full, dq_place.parity);
          if (piece.block > 0) await_turn(exchange.added + tile, piece.block);
          if (piece.block > 0) add_bytes(sums, shared + H::dq_at, H::dq_bytes);
          else store_bytes(sums, shared + H::dq_at, H::dq_bytes);
          commit_stores();
          wait_stores();
          arrive(shared + H::dq_empty);
          dq_place.advance();
          wait_stored();
          end_turn(exchange.added + tile, piece.block);
        }
      }
    }
    return;
  }

  grow_registers<H::many>();
  const float factor = plan.scale * 1.4426950408889634f;
  // What the compiler does not know to be 0.
  const uint32_t zero = static_cast<uint32_t>(plan.size) >> 30;
  const int thread = static_cast<int>(threadIdx.x) - warpgroup, warp_index = thread / warp;
  const int warp_key = warp_index * 16, r = lane / 4, c = lane % 4;
  const auto release = [&](int barrier) {
    if (lane == 0) arrive(shared + barrier);
  };
  // Where this lane's row of four matrices of gradients of scores lies in their tile, and the chunk that it would be at.
  const uint32_t ds_row = shared + H::ds_at + (warp_key + lane % 16) * 128, ds_chunk = lane / 16;

  for (;;) {
    wait_for(shared + H::kv_full, kv_place.parity);
    const unsigned item = *item_place;
    if (item == NONE) break;
    const Piece<D> piece(plan, order, all_tiles, item);
    kv_place.advance();
    const uint32_t k_tile = shared + H::keys_at, v_tile = shared + H::values_at;
    const int group_key = piece.first_key + group * 64;
    float dk[H::size_tiles][4], dv[H::size_tiles][4], scores[H::query_tiles][4];

    const auto start_scores = [&] {
      const uint32_t q_tile = shared + H::q_at + q_place.stage * H::queries_bytes;
      begin_products();
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        multiply_tiles<T>(scores, along_rows(k_tile + d / 4 * H::keys_box + group * BOX_BYTES + d % 4 * 32),
                          along_rows(q_tile + d / 4 * H::queries_box + d % 4 * 32), d > 0);
      }
      commit_products();
    };
    wait_for(shared + H::q_full + 8 * q_place.stage, q_place.parity);
    start_scores();
    wait_products<0>();
    settle(scores);

#pragma unroll 1
    for (int index = 0; index < piece.tiles; ++index) {
      const int tile = all_tiles - 1 - index, first_query = tile * H::queries, place = q_place.stage;
      const uint32_t q_tile = shared + H::q_at + place * H::queries_bytes, d_tile = shared + H::d_at + place * H::queries_bytes;
      float dp[H::query_tiles][4], dq[8][4];
      uint32_t p[H::query_steps][4], ds[H::query_steps][4];

      wait_for(shared + H::d_full + 8 * place, q_place.parity);
      begin_products();
#pragma unroll
      for (int d = 0; d < D / 16; ++d) {
        multiply_tiles<T>(dp, along_rows(v_tile + d / 4 * H::keys_box + group * BOX_BYTES + d % 4 * 32),
                          along_rows(d_tile + d / 4 * H::queries_box + d % 4 * 32), d > 0);
      }
      commit_products();

      if ((plan.causal && first_query < group_key + 63) || group_key + 64 > sequence) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = piece.first_key + warp_key + r + half * 8;
          const int from = (key >= sequence ? H::queries : plan.causal ? key - first_query : 0) - c * 2;
#pragma unroll
          for (int n = 0; n < H::query_tiles; ++n) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (n * 8 + e < from) scores[n][2 * half + e] = -INFINITY;
            }
          }
        }
      }
      const float4* const statistics = reinterpret_cast<const float4*>(memory + H::statistics_at + place * H::statistics_bytes) + c;
      uint32_t bits = 0;
#pragma unroll
      for (int n = 0; n < H::query_tiles; ++n) {
        const float4 two = statistics[n * 4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[n][e] = exp2_fast(fmaf(scores[n][e], factor, e % 2 ? two.z : two.x));
          bits |= __float_as_uint(scores[n][e]);
        }
      }
      // Results laid out in these places have been read. The queries have long been there: this wait, which seems to depend on all
      // exponentials, keeps the compiler from moving them behind the wait for products, under which they are taken.
      if (lane == 0) wait_stores();
      __syncwarp();
      wait_for(shared + H::q_full + 8 * place, q_place.parity + (bits & zero));
      wait_products<0>();
      settle(dp);
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
        store_matrices(ds_row + place * H::ds_bytes + k / 4 * H::keys_box + ((k % 4 * 2 + ds_chunk) ^ lane % 8) * 16, ds[k]);
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

      // The gradients of scores of both groups are there; a place's are read until the next tile's barrier and written again after it.
      sync_threads<warpgroup * H::groups>(1);
      // Of 128 queries each group takes half, of 64 queries half of the columns.
      constexpr bool by_query = H::queries == 128;
      const uint32_t ds_tile = shared + H::ds_at + place * H::ds_bytes + (by_query ? group * H::keys_box : 0);
      const uint32_t dq_keys = k_tile + (by_query ? 0 : group * H::keys_box);
      begin_products();
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) {
        multiply_across<T>(dq, across_rows(ds_tile + k * 2048, 0), across_rows(dq_keys + k * 2048, 0), k > 0);
      }
      commit_products();
      wait_products<1>();
      settle(dv), settle(dk);
      release(H::d_empty + 8 * place), release(H::q_empty + 8 * place);
      q_place.advance();
      // Past the last tile the product is of what lies there, and nobody looks at it.
      if (index + 1 < piece.tiles) wait_for(shared + H::q_full + 8 * q_place.stage, q_place.parity);
      start_scores();
      wait_products<1>();
      settle(dq);

      if (index < piece.tiles - piece.last_tiles) {
        wait_for(shared + H::dq_empty, dq_place.parity ^ 1);
        dq_place.advance();
        float4* const to = reinterpret_cast<float4*>(memory + H::dq_at) + thread;
#pragma unroll
        for (int n = 0; n < 8; ++n) to[n * 128 * H::groups] = make_float4(dq[n][0], dq[n][1], dq[n][2], dq[n][3]);
        fence_async();
        __syncwarp();
        release(H::dq_full);
      } else {
        if (piece.block > 0) {
          const int64_t number = static_cast<int64_t>(piece.pair) * all_tiles + tile;
          const float4* const from = exchange.sums + number * (H::dq_bytes / 16) + thread;
          await_turn(exchange.added + number, piece.block);
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            const float4 sum = load_coherent(from + n * 128 * H::groups);
            dq[n][0] += sum.x, dq[n][1] += sum.y, dq[n][2] += sum.z, dq[n][3] += sum.w;
          }
        }
        // Through this warp's part of dQ's place, once that is read.
        wait_for(shared + H::dq_empty, dq_place.parity ^ 1);
        if (lane == 0) wait_stores();
        __syncwarp();
        const uint32_t mine = shared + H::dq_at + warp_index * H::warp_box;
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
          uint32_t four[4];
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            four[u] = pack<T>(dq[n + u / 2][u % 2 * 2] * plan.scale, dq[n + u / 2][u % 2 * 2 + 1] * plan.scale);
          }
          store_matrices(mine + lane % 16 * 128 + ((n + lane / 16) ^ lane % 8) * 16, four);
        }
        fence_async();
        __syncwarp();
        if (lane == 0) {
          store_box(out_map, mine, piece.pair % plan.heads * D + (by_query ? 0 : group * BOX), first_query + (by_query ? warp_key : warp_key % 64),
                    piece.pair / plan.heads);
          commit_stores();
        }
      }
      wait_products<0>();
      settle(scores);
    }
    release(H::kv_empty);

    // A warp's results go out through rows that only it writes, once no group reads gradients of scores any more.
    sync_threads<warpgroup * H::groups>(1);
    wait_for(shared + H::dq_empty, dq_place.parity ^ 1);
    if (lane == 0) wait_stores();
    __syncwarp();
    const uint32_t mine = shared + (warp_key + lane % 16) * 128;
#pragma unroll
    for (int n = 0; n < H::size_tiles; n += 2) {
      uint32_t of_k[4], of_v[4];
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        of_k[u] = pack<T>(dk[n + u / 2][u % 2 * 2] * plan.scale, dk[n + u / 2][u % 2 * 2 + 1] * plan.scale);
        of_v[u] = pack<T>(dv[n + u / 2][u % 2 * 2], dv[n + u / 2][u % 2 * 2 + 1]);
      }
      const uint32_t at = mine + n / 8 * H::keys_box + ((n % 8 + lane / 16) ^ lane % 8) * 16;
      store_matrices(at + H::dk_at, of_k);
      store_matrices(at + H::dv_at, of_v);
    }
    fence_async();
    __syncwarp();
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < H::boxes; ++i) {
        const int column = hidden + piece.pair % plan.heads * D + i * BOX;
        const uint32_t from = shared + i * H::keys_box + warp_key * 128;
        store_box(out_map, from + H::dk_at, column, piece.first_key + warp_key, piece.pair / plan.heads);
        store_box(out_map, from + H::dv_at, hidden + column, piece.first_key + warp_key, piece.pair / plan.heads);
      }
      commit_stores();
    }
  }
  if (lane == 0) wait_stores();
#endif
}

template <class T, int D>
void enqueue(const Call& call, const Plan& plan) {
  using H = Hopper<D>;
  allow_shared_once<attention_hopper_backward<T, D>>(H::shared_bytes);
  const Exchange exchange = prepare_backward(call, plan, H::queries, 1);
  const Order order(call, plan.pairs(), divide_up(plan.sequence, KEYS), int64_t{8} * plan.sequence * D);
  const unsigned blocks = static_cast<unsigned>(call.device->multiprocessors);
  launch(attention_hopper_backward<T, D>, dim3(order.count() < blocks ? order.count() : blocks), dim3(H::threads), H::shared_bytes,
         call.stream, plan, order, exchange, box_map(call.in(1), BOX), box_map(call.in(0), BOX), box_map(call.out(0), 16));
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
