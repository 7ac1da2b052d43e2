// Attention backward on tensor cores, five products to a tile. One block takes 128 keys of a pair and walks over the queries, 64 at a
// time, in descending order. A group of one or two warps owns 32 of the keys and computes the scores transposed, so that probabilities
// and gradients of scores go from the registers that they were computed in straight into the products for dV and dK, whose sums stay in
// registers too. With heads above 64 those take the registers of two warps: each computes the scores of half of the queries, and owns
// half of the columns of dV and dK. Only dQ needs the gradients of scores of all groups: they meet in shared memory, with one barrier
// of the block for each tile.
// How dQ is added up over the blocks of keys: attention-backward.h.
// Source: FlashAttention-2 (arXiv 2307.08691).
#include "attention-backward.h"
#include "attention-mma.h"

#include <cmath>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

namespace {

constexpr int KEYS = 128, QUERIES = 64;

template <int D>
struct Backward {
  /// Keys of a group of warps and queries whose scores a warp holds at once.
  static constexpr int group_keys = 32, step = 32, steps = QUERIES / step;
  static constexpr int key_tiles = group_keys / 16;
  /// Warps of a group.
  static constexpr int sharing = D == 64 ? 1 : 2;
  static constexpr int warps = KEYS / group_keys * sharing, threads = warps * warp;
  /// Blocks that share a multiprocessor.
  static constexpr int blocks = D == 64 ? 2 : 1;
  static constexpr int size_tiles = D / 8, own_tiles = size_tiles / sharing;

  /// A warp's part of dQ of a tile: tiles of 16 queries and of 8 columns.
  static constexpr int query_groups = D % 64 == 0 ? 2 : 4, column_groups = warps / query_groups;
  static constexpr int dq_rows = QUERIES / query_groups / 16, dq_columns = size_tiles / column_groups;
  static_assert(own_tiles * sharing == size_tiles && dq_columns * column_groups == size_tiles);

  static constexpr int stride = stride_of<D>, p_stride = stride_of<QUERIES>;
  /// k and v, probabilities as [key][query] where two warps share them, and the ticket.
  static constexpr int keys_at = 0, values_at = KEYS * stride, p_at = 2 * KEYS * stride;
  static constexpr int ticket_at = p_at + (sharing > 1 ? KEYS * p_stride : 0), stages_at = ticket_at + 16;
  /// In one stage: q, do, the statistics of its queries, and the gradients of its scores as [key][query].
  static constexpr int d_at = QUERIES * stride, statistics_at = 2 * QUERIES * stride, ds_at = statistics_at + QUERIES * 8;
  static constexpr int stage_bytes = ds_at + KEYS * p_stride;
  static constexpr size_t shared_bytes(int stages) { return stages_at + static_cast<size_t>(stages) * stage_bytes; }
};

/// Which of a lane's scores of a transposed tile of 32 keys and 32 queries are kept: 4 bits for each tile of C, by keys first.
__device__ inline uint32_t kept_scores(const Mask& mask, int key, int query) {
  const int lane = threadIdx.x % warp, r = lane / 4, c = lane % 4;
  uint32_t all = 0;
#pragma unroll 1
  for (int tile = 0; tile < 8; ++tile) {
    const int k = key + tile / 4 * 16, q = query + tile % 4 * 8 + c * 2;
    uint32_t four = 0;
    if (mask.sequence % 4 == 0) {
      // The warp draws the 32 blocks of 16 keys and 8 queries and votes; this lane's block is of query q + r % 2, keys 4 * (r / 2) on.
      const uint32_t kept = mask.kept_of_block(mask.element(q + (r & 1), k + r / 2 * 4) / 4);
      uint32_t votes = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const uint32_t vote = __ballot_sync(0xffffffffu, kept >> w & 1);
        votes = (r & 3) == w ? vote : votes;
      }
      votes >>= r / 4 * 8 + c;
      four = (votes & 1) | (votes >> 4 & 1) << 1 | (votes >> 16 & 1) << 2 | (votes >> 20 & 1) << 3;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) four |= (mask.kept(q + e % 2, k + r + e / 2 * 8) ? 1u : 0u) << e;
    }
    all |= four << (4 * tile);
  }
  return all;
}

template <class T, int D, bool DROPOUT>
__global__ void __launch_bounds__(Backward<D>::threads, Backward<D>::blocks)
    attention_backward(const Plan plan, const Order order, const Exchange exchange, const int stages, const T* __restrict__ d_o,
                       const T* __restrict__ qkv, T* __restrict__ dqkv) {
  using B = Backward<D>;
  const int lane = threadIdx.x % warp, warp_index = threadIdx.x / warp;
  const int group = warp_index / B::sharing, member = warp_index % B::sharing;
  unsigned* const ticket = reinterpret_cast<unsigned*>(attention_shared + B::ticket_at);
  if (threadIdx.x == 0) *ticket = atomicAdd(exchange.ticket, 1u);
  __syncthreads();
  int pair, block;
  order.at(*ticket, pair, block);

  const int sequence = plan.sequence, width = plan.width(), hidden = plan.hidden();
  const int first_key = block * KEYS, group_key = first_key + group * B::group_keys;
  const int all_tiles = divide_up(sequence, QUERIES), tiles = all_tiles - (plan.causal ? first_key / QUERIES : 0);
  const T* const q = qkv + plan.qkv_offset(pair);
  const T* const d_out = d_o + plan.o_offset(pair);
  const int64_t first_tile = static_cast<int64_t>(pair) * all_tiles;
  const uint32_t shared = shared_address(attention_shared);

  const auto copy_queries = [&](int index) {
    if (index < tiles) {
      const int tile = all_tiles - 1 - index, query = tile * QUERIES;
      const uint32_t to = shared + B::stages_at + (index & (stages - 1)) * B::stage_bytes;
      using Copy = RowCopy<QUERIES, D, B::threads>;
      Copy::start(to, q + static_cast<int64_t>(query) * width, width, sequence - query);
      Copy::start(to + B::d_at, d_out + static_cast<int64_t>(query) * hidden, hidden, sequence - query);
      if (threadIdx.x < QUERIES / 2) {
        copy_async(to + B::statistics_at + threadIdx.x * 16, exchange.statistics + (first_tile + tile) * QUERIES + threadIdx.x * 2, true);
      }
    }
    commit_copies();
  };
  {
    using Copy = RowCopy<KEYS, D, B::threads>;
    const T* const k = q + hidden + static_cast<int64_t>(first_key) * width;
    Copy::start(shared + B::keys_at, k, width, sequence - first_key);
    Copy::start(shared + B::values_at, k + hidden, width, sequence - first_key);
  }
  copy_queries(0);
  if (stages == 2) copy_queries(1);
  else commit_copies();
  wait_copies<1>();
  __syncthreads();

  const float factor = plan.scale * 1.4426950408889634f;
  float dk[B::key_tiles][B::own_tiles][4], dv[B::key_tiles][B::own_tiles][4];
#pragma unroll
  for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
    for (int n = 0; n < B::own_tiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[i][n][e] = dv[i][n][e] = 0;
    }
  }

  const uint32_t group_keys = shared + B::keys_at + group * B::group_keys * B::stride + rows_first(B::stride);
  const uint32_t group_values = group_keys + B::values_at - B::keys_at;
  const int query_group = warp_index % B::query_groups, column_group = warp_index / B::query_groups;
  const uint32_t dq_keys = shared + B::keys_at + column_group * B::dq_columns * 16 + rows_first(B::stride);
  Additions additions(block);

#pragma unroll 1
  for (int index = 0; index < tiles; ++index) {
    const int tile = all_tiles - 1 - index, first_query = tile * QUERIES;
    const int stage_at = B::stages_at + (index & (stages - 1)) * B::stage_bytes;
    const uint32_t stage = shared + stage_at;
    float4* const sums = exchange.sums + (first_tile + tile) * (QUERIES * D / 4) + threadIdx.x;
    additions.look(exchange.added + (first_tile + tile) * B::warps + warp_index);
    float dq[B::dq_rows][B::dq_columns][4];
    const auto active = [&](int step) {
      return group_key < sequence && (!plan.causal || first_query + (step + 1) * B::step > group_key);
    };
    const auto begin_sums = [&] {
      additions.release();
      additions.wait();
#pragma unroll
      for (int i = 0; i < B::dq_rows; ++i) {
#pragma unroll
        for (int n = 0; n < B::dq_columns; ++n) {
          const float4 sum = additions.sum(sums + (i * B::dq_columns + n) * B::threads);
          dq[i][n][0] = sum.x, dq[i][n][1] = sum.y, dq[i][n][2] = sum.z, dq[i][n][3] = sum.w;
        }
      }
    };

    // One warp to a group takes all steps one after the other; of two each takes one.
#pragma unroll
    for (int round = 0; round < B::steps / B::sharing; ++round) {
      const int step = B::sharing > 1 ? member : round, step_query = first_query + step * B::step;
      uint32_t p[B::step / 16][B::key_tiles][4], ds[B::step / 16][B::key_tiles][4];
      if (active(step)) {
        uint32_t kept = 0;
        if constexpr (DROPOUT) kept = kept_scores(Mask(plan, pair), group_key, step_query);
        float scores[B::key_tiles][B::step / 8][4], dp[B::key_tiles][B::step / 8][4];
        const uint32_t queries = stage + step * B::step * B::stride + columns_first(B::stride);
        multiply_rows<T, D>(scores, group_keys, queries);
        multiply_rows<T, D>(dp, group_values, queries + B::d_at);

        if ((plan.causal && step_query < group_key + B::group_keys - 1) || group_key + B::group_keys > sequence) {
#pragma unroll
          for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int key = group_key + i * 16 + lane / 4 + e / 2 * 8;
              const int from = key >= sequence ? first_query + QUERIES : plan.causal ? key : 0;
#pragma unroll
              for (int n = 0; n < B::step / 8; ++n) {
                if (step_query + n * 8 + lane % 4 * 2 + e % 2 < from) scores[i][n][e] = -INFINITY;
              }
            }
          }
        }

        const float4* const statistics =
            reinterpret_cast<const float4*>(attention_shared + stage_at + B::statistics_at + step * B::step * 8) + lane % 4;
#pragma unroll
        for (int n = 0; n < B::step / 8; ++n) {
          const float4 two = statistics[n * 4];
#pragma unroll
          for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float probability = exp2_fast(fmaf(scores[i][n][e], factor, e % 2 ? two.z : two.x));
              float d_probability = dp[i][n][e];
              scores[i][n][e] = probability;
              if constexpr (DROPOUT) {
                const bool keep = kept >> ((i * 4 + n) * 4 + e) & 1;
                scores[i][n][e] = keep ? probability : 0.0f;
                d_probability = keep ? d_probability * plan.dropout.factor : 0.0f;
              }
              dp[i][n][e] = probability * (d_probability - (e % 2 ? two.w : two.y));
            }
          }
        }
        unsigned char* const to =
            attention_shared + (group * B::group_keys + lane / 4) * B::p_stride + step * B::step * 2 + lane % 4 * 4;
#pragma unroll
        for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
          for (int n = 0; n < B::step / 16; ++n) {
            to_operand<T>(p[n][i], scores[i][2 * n], scores[i][2 * n + 1]);
            to_operand<T>(ds[n][i], dp[i][2 * n], dp[i][2 * n + 1]);
#pragma unroll
            for (int u = 0; u < 4; ++u) {
              const int at = (i * 16 + u % 2 * 8) * B::p_stride + n * 32 + u / 2 * 16;
              *reinterpret_cast<uint32_t*>(to + stage_at + B::ds_at + at) = ds[n][i][u];
              if constexpr (B::sharing > 1) *reinterpret_cast<uint32_t*>(to + B::p_at + at) = p[n][i][u];
            }
          }
        }
      }

      // The sum so far is on its way while the products for dV and dK run.
      if (round == B::steps / B::sharing - 1) begin_sums();

      const auto add_step = [&](int of, uint32_t (&left_p)[B::step / 16][B::key_tiles][4], uint32_t (&left_ds)[B::step / 16][B::key_tiles][4]) {
        const uint32_t queries = stage + of * B::step * B::stride + member * B::own_tiles * 16 + rows_first(B::stride);
#pragma unroll
        for (int n = 0; n < B::step / 16; ++n) {
          multiply_step<T>(dv, left_p[n], queries + B::d_at + n * 16 * B::stride);
        }
#pragma unroll
        for (int n = 0; n < B::step / 16; ++n) {
          multiply_step<T>(dk, left_ds[n], queries + n * 16 * B::stride);
        }
      };
      if (active(step)) add_step(step, p, ds);
      if constexpr (B::sharing > 1) {
        sync_threads<B::sharing * warp>(1 + group);
        const int other = 1 - step;
        if (active(other)) {
          const uint32_t from = shared + group * B::group_keys * B::p_stride + other * B::step * 2 + rows_first(B::p_stride);
#pragma unroll
          for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
            for (int n = 0; n < B::step / 16; ++n) {
              load_matrices(p[n][i], from + B::p_at + i * 16 * B::p_stride + n * 32);
              load_matrices(ds[n][i], from + stage_at + B::ds_at + i * 16 * B::p_stride + n * 32);
            }
          }
          add_step(other, p, ds);
        }
      }
    }

    wait_copies<0>();
    __syncthreads();
    // q and do of this tile are used up; its gradients of scores are read until the next barrier, in a stage of their own if there are two.
    if (stages == 2) copy_queries(index + 2);

    const int group_query = first_query + query_group * 16 * B::dq_rows;
    const int unmasked = plan.causal ? group_query + 16 * B::dq_rows - first_key : KEYS;
    const int keys = sequence - first_key < unmasked ? sequence - first_key : unmasked;
    const uint32_t ds_tile = stage + B::ds_at + query_group * B::dq_rows * 32 + columns_first(B::p_stride);
    const auto add_keys = [&](int k) {
      uint32_t a[B::dq_rows][4];
#pragma unroll
      for (int i = 0; i < B::dq_rows; ++i) load_matrices_transposed(a[i], ds_tile + k * 16 * B::p_stride + i * 32);
      multiply_step<T>(dq, a, dq_keys + k * 16 * B::stride);
    };
    if (keys >= KEYS) {
#pragma unroll
      for (int k = 0; k < KEYS / 16; ++k) add_keys(k);
    } else {
#pragma unroll 1
      for (int k = 0; k * 16 < keys; ++k) add_keys(k);
    }

    const int last_block = plan.causal ? first_query / KEYS : (sequence - 1) / KEYS;
    if (block < last_block) {
#pragma unroll
      for (int i = 0; i < B::dq_rows; ++i) {
#pragma unroll
        for (int n = 0; n < B::dq_columns; ++n) {
          store_coherent(sums + (i * B::dq_columns + n) * B::threads, make_float4(dq[i][n][0], dq[i][n][1], dq[i][n][2], dq[i][n][3]));
        }
      }
      additions.stored();
    } else {
      T* const to = dqkv + plan.qkv_offset(pair) + column_group * B::dq_columns * 8 + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < B::dq_rows; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = group_query + i * 16 + half * 8 + lane / 4;
          if (row >= sequence) continue;
#pragma unroll
          for (int n = 0; n < B::dq_columns; ++n) {
            *reinterpret_cast<uint32_t*>(to + static_cast<int64_t>(row) * width + n * 8) =
                pack<T>(dq[i][n][2 * half] * plan.scale, dq[i][n][2 * half + 1] * plan.scale);
          }
        }
      }
    }

    if (stages == 1) {
      __syncthreads();
      copy_queries(index + 1);
      wait_copies<0>();
      __syncthreads();
    }
  }
  additions.release();

  // A group's results go out through its own rows of keys and values, once no warp reads the keys any more.
  __syncthreads();
  const float dv_factor = DROPOUT ? plan.dropout.factor : 1.0f;
  const int mine = group * B::group_keys * B::stride;
#pragma unroll
  for (int i = 0; i < B::key_tiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned char* const to =
          attention_shared + mine + (i * 16 + half * 8 + lane / 4) * B::stride + member * B::own_tiles * 16 + lane % 4 * 4;
#pragma unroll
      for (int n = 0; n < B::own_tiles; ++n) {
        *reinterpret_cast<uint32_t*>(to + B::keys_at + n * 16) = pack<T>(dk[i][n][2 * half] * plan.scale, dk[i][n][2 * half + 1] * plan.scale);
        *reinterpret_cast<uint32_t*>(to + B::values_at + n * 16) = pack<T>(dv[i][n][2 * half] * dv_factor, dv[i][n][2 * half + 1] * dv_factor);
      }
    }
  }
  if constexpr (B::sharing > 1) sync_threads<B::sharing * warp>(1 + group);
  else __syncwarp();
  // Of two warps one stores dK and the other dV.
  T* const to = dqkv + plan.qkv_offset(pair) + hidden + static_cast<int64_t>(group_key) * width;
  if (B::sharing == 1 || member == 0) store_rows<B::group_keys, D>(to, attention_shared + B::keys_at + mine, width, sequence - group_key);
  if (B::sharing == 1 || member == 1) {
    store_rows<B::group_keys, D>(to + hidden, attention_shared + B::values_at + mine, width, sequence - group_key);
  }
}

template <int D>
int stages_of(const Properties& device) {
  using B = Backward<D>;
  // A multiprocessor has 1 KiB more than a block may take, and each block costs 1 KiB beside its own.
  if (B::blocks * (B::shared_bytes(2) + 1024) <= device.shared_bytes + 1024) return 2;
  return B::shared_bytes(1) <= device.shared_bytes ? 1 : 0;
}

template <class T, int D, bool DROPOUT>
void enqueue(const Call& call, const Plan& plan) {
  using B = Backward<D>;
  const auto kernel = attention_backward<T, D, DROPOUT>;
  const int stages = stages_of<D>(*call.device);
  const size_t bytes = B::shared_bytes(stages);
  allow_shared_once<attention_backward<T, D, DROPOUT>>(bytes);
  const Exchange exchange = prepare_backward(call, plan, QUERIES, B::warps);
  const Order order(call, plan.pairs(), divide_up(plan.sequence, KEYS), int64_t{8} * plan.sequence * D);
  launch(kernel, dim3(order.count()), dim3(B::threads), bytes, call.stream, plan, order, exchange, stages,
         call.in(0).as<const T>(), call.in(1).as<const T>(), call.out(0).as<T>());
}

}  // namespace

bool has_backward_mma(const Call& call, const Plan& plan) {
  if (!fits_mma(call, plan, {call.in(0).data, call.in(1).data, call.in(2).data, call.out(0).data})) return false;
  bool has = false;
  with_mma_types(DType::bf16, plan.size, [&]<class T, int D>() { has = stages_of<D>(*call.device) > 0; });
  return has;
}

void backward_mma(const Call& call, const Plan& plan) {
  with_mma_types(call.in(1).dtype, plan.size, [&]<class T, int D>() {
    if (plan.dropout.active) enqueue<T, D, true>(call, plan);
    else enqueue<T, D, false>(call, plan);
  });
}

}  // namespace deeptroupe::gpu

#endif
