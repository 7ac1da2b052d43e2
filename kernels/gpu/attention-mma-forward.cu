// Attention forward on tensor cores: one block of four warps takes 128 queries of a pair, 32 to a warp, and walks over the keys in
// ascending order, so that every row has met a visible key after the first tile. Scores stay in registers.
// Source: FlashAttention-2 (arXiv 2307.08691); a row's sums are rescaled only when its top has risen by a factor of 2^8, as in
// FlashAttention-4: until then the old top serves, and e^(score - top) stays far below overflow.
#include "attention-mma.h"

#include <cmath>

#if !defined(__HIP__)

namespace deeptroupe::gpu {

namespace {

constexpr int KEYS = 64;

template <int D>
struct Forward {
  static constexpr int threads = 128, rows = 128, warp_rows = 32;
  static constexpr int row_tiles = 2, key_tiles = KEYS / 8, size_tiles = D / 8;
  /// Blocks that share a multiprocessor: registers allow three where sums are small.
  static constexpr int blocks(bool dropout) { return D == 64 && !dropout ? 3 : 2; }
  static constexpr int stride = stride_of<D>;
  static constexpr int tile_bytes = KEYS * stride;
  static constexpr int q_at = 0, keys_at = rows * stride, values_at = tile_bytes, stage_bytes = 2 * tile_bytes;
  static constexpr size_t shared_bytes(int stages) { return keys_at + static_cast<size_t>(stages) * stage_bytes; }
};

/// Which of a lane's scores of one warp's tile are kept: 4 bits for each tile of C, rows of tiles first.
__device__ inline void kept_scores(uint32_t (&bits)[KEYS / 32 * 2], const Mask& mask, int query, int key) {
  const int lane = threadIdx.x % warp, r = lane / 4, c = lane % 4;
  constexpr int in_word = 8, tiles = 2 * (KEYS / 8);
#pragma unroll
  for (int word = 0; word < tiles / in_word; ++word) {
    uint32_t all = 0;
#pragma unroll 1
    for (int i = 0; i < in_word; ++i) {
      const int tile = word * in_word + i;
      const int q = query + tile / (KEYS / 8) * 16 + r, k = key + tile % (KEYS / 8) * 8;
      uint32_t four = 0;
      if (mask.sequence % 4 == 0) {
        // The four lanes of a quad draw the four blocks of two rows of the tile and tell each other.
        const uint32_t kept = mask.kept_of_block(mask.element(q + (c & 1) * 8, k + c / 2 * 4) / 4);
        const uint32_t low = c & 1 ? kept >> 2 : kept, high = c & 1 ? kept : kept >> 2;
        // `low` is this lane's own pair, `high` the pair that its neighbour needs, of the row that this lane drew.
        const uint32_t other = shuffle_xor(high, 1);
        four = c & 1 ? (other & 3) | (low & 3) << 2 : (low & 3) | (other & 3) << 2;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) four |= (mask.kept(q + e / 2 * 8, k + c * 2 + e % 2) ? 1u : 0u) << e;
      }
      all |= four << (4 * i);
    }
    bits[word] = all;
  }
}

template <class T, int D, bool DROPOUT>
__global__ void __launch_bounds__(Forward<D>::threads, Forward<D>::blocks(DROPOUT))
    attention_forward(const Plan plan, const Order order, const int stages, const T* __restrict__ qkv, T* __restrict__ o,
                      float* __restrict__ lse) {
  using F = Forward<D>;
  int pair, rank;
  order.at(blockIdx.x, pair, rank);
  const int lane = threadIdx.x % warp, warp_row = threadIdx.x / warp * F::warp_rows;
  const int first_query = (order.blocks - 1 - rank) * F::rows;
  const int first_row = first_query + warp_row;
  const int sequence = plan.sequence, width = plan.width(), hidden = plan.hidden();
  const int visible = plan.causal && first_query + F::rows < sequence ? first_query + F::rows : sequence;
  const int tiles = divide_up(visible, KEYS);

  const T* const q = qkv + plan.qkv_offset(pair);
  const T* const k = q + hidden;
  const T* const v = k + hidden;
  const uint32_t shared = shared_address(attention_shared);
  const auto copy_keys = [&](int tile) {
    const int key = tile * KEYS;
    const uint32_t to = shared + F::keys_at + (tile & (stages - 1)) * F::stage_bytes;
    const int64_t offset = static_cast<int64_t>(key) * width;
    RowCopy<KEYS, D, F::threads>::start(to, k + offset, width, sequence - key);
    RowCopy<KEYS, D, F::threads>::start(to + F::values_at, v + offset, width, sequence - key);
    commit_copies();
  };
  RowCopy<F::rows, D, F::threads>::start(shared + F::q_at, q + static_cast<int64_t>(first_query) * width, width, sequence - first_query);
  copy_keys(0);

  const float factor = plan.scale * 1.4426950408889634f;
  float sums[F::row_tiles][F::size_tiles][4];
  float top[F::row_tiles][2], total[F::row_tiles][2];
#pragma unroll
  for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
    for (int n = 0; n < F::size_tiles; ++n) sums[i][n][0] = sums[i][n][1] = sums[i][n][2] = sums[i][n][3] = 0;
    top[i][0] = top[i][1] = -INFINITY, total[i][0] = total[i][1] = 0;
  }
  const uint32_t q_tile = shared + F::q_at + warp_row * F::stride + rows_first(F::stride);
  const uint32_t k_tile = shared + F::keys_at + columns_first(F::stride);
  const uint32_t v_tile = shared + F::keys_at + F::values_at + rows_first(F::stride);

#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<0>();
    __syncthreads();
    if (stages == 2 && tile + 1 < tiles) copy_keys(tile + 1);
    const int first_key = tile * KEYS;
    if (first_row < sequence && !(plan.causal && first_key > first_row + F::warp_rows - 1)) {
      const uint32_t stage = (tile & (stages - 1)) * F::stage_bytes;

      uint32_t kept[KEYS / 32 * 2];
      if constexpr (DROPOUT) kept_scores(kept, Mask(plan, pair), first_row, first_key);

      float scores[F::row_tiles][F::key_tiles][4];
      multiply_rows<T, D>(scores, q_tile, k_tile + stage);

      if ((plan.causal && first_key + KEYS - 1 > first_row) || first_key + KEYS > sequence) {
#pragma unroll
        for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int row = first_row + i * 16 + lane / 4 + e / 2 * 8;
            const int last = plan.causal && row < sequence ? row : sequence - 1;
#pragma unroll
            for (int n = 0; n < F::key_tiles; ++n) {
              if (first_key + n * 8 + lane % 4 * 2 + e % 2 > last) scores[i][n][e] = -INFINITY;
            }
          }
        }
      }

      float here[F::row_tiles][2];
      bool risen = false;
#pragma unroll
      for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float most = fmaxf(scores[i][0][2 * half], scores[i][0][2 * half + 1]);
#pragma unroll
          for (int n = 1; n < F::key_tiles; ++n) most = fmaxf(most, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
          most = fmaxf(most, shuffle_xor(most, 1));
          most = fmaxf(most, shuffle_xor(most, 2));
          here[i][half] = most;
          risen = risen || (most - top[i][half]) * factor > 8.0f;
        }
      }
      if (__any_sync(0xffffffffu, risen)) {
#pragma unroll
        for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float higher = fmaxf(top[i][half], here[i][half]);
            const float shrink = exp2_fast((top[i][half] - higher) * factor);
            top[i][half] = higher;
            total[i][half] *= shrink;
#pragma unroll
            for (int n = 0; n < F::size_tiles; ++n) sums[i][n][2 * half] *= shrink, sums[i][n][2 * half + 1] *= shrink;
          }
        }
      }

#pragma unroll
      for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float shift = -top[i][half] * factor;
#pragma unroll
          for (int n = 0; n < F::key_tiles; ++n) {
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; ++e) {
              float& score = scores[i][n][e];
              score = exp2_fast(fmaf(score, factor, shift));
              total[i][half] += score;
              if constexpr (DROPOUT) {
                constexpr int in_word = 8;
                const int at = i * F::key_tiles + n;
                if (!(kept[at / in_word] >> (at % in_word * 4 + e) & 1)) score = 0;
              }
            }
          }
        }
      }

#pragma unroll
      for (int n = 0; n < KEYS / 16; ++n) {
        uint32_t a[F::row_tiles][4];
#pragma unroll
        for (int i = 0; i < F::row_tiles; ++i) to_operand<T>(a[i], scores[i][2 * n], scores[i][2 * n + 1]);
        multiply_step<T>(sums, a, v_tile + stage + n * 16 * F::stride);
      }
    }
    if (stages == 1 && tile + 1 < tiles) {
      __syncthreads();
      copy_keys(tile + 1);
    }
  }

  // A warp's results go out through its own rows of q.
  unsigned char* const mine = attention_shared + F::q_at + warp_row * F::stride;
#pragma unroll
  for (int i = 0; i < F::row_tiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float all = total[i][half];
      all += shuffle_xor(all, 1);
      all += shuffle_xor(all, 2);
      const float inverse = (DROPOUT ? plan.dropout.factor : 1.0f) / all;
      const int in_warp = i * 16 + half * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < F::size_tiles; ++n) {
        *reinterpret_cast<uint32_t*>(mine + in_warp * F::stride + n * 16 + lane % 4 * 4) =
            pack<T>(sums[i][n][2 * half] * inverse, sums[i][n][2 * half + 1] * inverse);
      }
      if (lse && lane % 4 == 0 && first_row + in_warp < sequence) {
        lse[static_cast<int64_t>(pair) * sequence + first_row + in_warp] = fmaf(top[i][half], plan.scale, logf(all));
      }
    }
  }
  __syncwarp();
  store_rows<F::warp_rows, D>(o + plan.o_offset(pair) + static_cast<int64_t>(first_row) * hidden, mine, hidden, sequence - first_row);
}

template <int D>
int stages_of(const Properties& device) {
  using F = Forward<D>;
  // Two blocks share a multiprocessor, which has 1 KiB more than a block may take; each costs 1 KiB beside its own.
  if (2 * (F::shared_bytes(2) + 1024) <= device.shared_bytes + 1024) return 2;
  return F::shared_bytes(1) <= device.shared_bytes ? 1 : 0;
}

template <class T, int D, bool DROPOUT>
void enqueue(const Call& call, const Plan& plan) {
  using F = Forward<D>;
  const int stages = stages_of<D>(*call.device);
  const size_t bytes = F::shared_bytes(stages);
  allow_shared_once<attention_forward<T, D, DROPOUT>>(bytes);
  const Order order(call, plan.pairs(), divide_up(plan.sequence, F::rows), int64_t{4} * plan.sequence * D);
  launch(attention_forward<T, D, DROPOUT>, dim3(order.count()), dim3(F::threads), bytes, call.stream, plan, order, stages,
         call.in(0).as<const T>(), call.out(0).as<T>(), call.has_out(1) ? call.out(1).as<float>() : nullptr);
}

}  // namespace

bool has_forward_mma(const Call& call, const Plan& plan) {
  if (!fits_mma(call, plan, {call.in(0).data, call.out(0).data})) return false;
  bool has = false;
  with_mma_types(DType::bf16, plan.size, [&]<class T, int D>() { has = stages_of<D>(*call.device) > 0; });
  return has;
}

void forward_mma(const Call& call, const Plan& plan) {
  with_mma_types(call.in(0).dtype, plan.size, [&]<class T, int D>() {
    if (plan.dropout.active) enqueue<T, D, true>(call, plan);
    else enqueue<T, D, false>(call, plan);
  });
}

}  // namespace deeptroupe::gpu

#endif
