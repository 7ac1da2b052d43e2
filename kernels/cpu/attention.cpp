// Attention in tiles: scores exist for one block of queries and keys at a time, so memory is linear in the sequence.
// Source: FlashAttention-2 (arXiv 2307.08691). Keys past a causal query cost nothing beyond the tile on the diagonal.
// A (batch, head) pair is one task and its blocks are taken in order, so bits do not depend on threads.
// Legend: T sequence, H heads, D head size.
#include "check.h"
#include "gemm.h"
#include "philox.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Queries and keys of one block of scores; `attentionWorkspace` in kernels/ops/attention.ts counts their bytes.
constexpr int64_t QUERIES = 96;
constexpr int64_t KEYS = 256;
/// Distances of rows of scores and of packed rows of queries, which also bounds the head size: odd numbers of cache lines.
constexpr int64_t SCORES_STRIDE = KEYS + 16;
constexpr int64_t HEAD_LIMIT = 1024;
constexpr int64_t ROW_STRIDE = HEAD_LIMIT + 16;

static_assert(QUERIES % MR == 0 && KEYS % NR == 0 && VL >= MR / 2);
/// Blocks of queries, of keys and tiles of keys begin at even positions, so that pairs stay whole.
static_assert(STEP<bf16> == 1 || (QUERIES % 2 == 0 && KEYS % 2 == 0 && MR % 2 == 0));

/// The keeping of probabilities under dropout: a factor per element, a function of (seed, op, step, sample, element) alone.
struct Dropout {
  bool active;
  uint32_t key[2];
  uint32_t op_id, step;
  vu threshold;
  vi possible;
  vf factor;

  /// Factors of `count` consecutive elements; the first is at the returned address, in `buffer` of count + 8 * VL floats.
  DT_INLINE const float* factors(float* buffer, uint32_t sample, uint64_t element, int64_t count) const {
    const int64_t skip = element % 4;
    for (int64_t i = 0; i < skip + count; i += 4 * VL) {
      const uint32_t counter[4] = {op_id, step, sample, static_cast<uint32_t>(element / 4 + i / 4)};
      vu words[4];
      philox4x32_vector(counter, key, words);
      for (int u = 0; u < 4; ++u) store(buffer + i + u * VL, select((words[u] >= threshold) & possible, factor, vf{}));
    }
    return buffer + skip;
  }
};

/// What one call's attributes and shapes come to.
struct Plan {
  int64_t batch, sequence, heads, size;
  /// Elements of a position in qkv and in o.
  int64_t width, hidden;
  /// Head size in whole vectors and sequence in whole panels.
  int64_t padded_size, padded_sequence;
  bool causal;
  float scale;
  uint32_t first_sample;
  Dropout dropout;

  template <class Attributes>
  Plan(const char* op, const Call& call, const Tensor& qkv, const Attributes& attributes) {
    batch = qkv.dims[0], sequence = qkv.dims[1], width = qkv.dims[2];
    heads = attributes.heads, hidden = width / 3, size = hidden / heads;
    if (size > HEAD_LIMIT) {
      fail("%s: head size, expected at most %lld, got %lld", op, static_cast<long long>(HEAD_LIMIT),
           static_cast<long long>(size));
    }
    padded_size = round_up(size, VL), padded_sequence = round_up(sequence, NR);
    causal = attributes.causal, scale = static_cast<float>(attributes.scale);
    const double p = attributes.dropout;
    const uint64_t seed = static_cast<uint64_t>(call.scalars[0]);
    first_sample = static_cast<uint32_t>(static_cast<uint64_t>(call.scalars[2]));
    dropout = {
        p > 0,
        {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        static_cast<uint32_t>(attributes.op_id),
        static_cast<uint32_t>(static_cast<uint64_t>(call.scalars[1])),
        // With p = 1 the threshold 2^32 fits no word: every element is dropped.
        vu{} + (p < 1 ? static_cast<uint32_t>(p * 0x1p32) : 0),
        splat_i(p < 1 ? -1 : 0),
        splat(static_cast<float>(1.0 / (1.0 - p))),
    };
  }

  /// Keys from `key` on, at most `count`, that a query sees.
  DT_INLINE int64_t visible(int64_t query, int64_t key, int64_t count) const {
    return causal ? greatest(0, least(count, query + 1 - key)) : count;
  }
  DT_INLINE uint64_t element(int64_t head, int64_t query, int64_t key) const {
    return static_cast<uint64_t>((head * sequence + query) * sequence + key);
  }
};

/// Packs the T rows of one head as the right operand of a sum over rows: a step takes one row or a pair, in whole vectors.
template <class T>
DT_INLINE void pack_right(const Plan& plan, float* to, const T* from, int64_t stride) {
  for (int64_t t = 0; t < plan.sequence; t += STEP<T>, to += plan.padded_size) {
    const T* row = from + t * stride;
    const T* next = t + 1 < plan.sequence ? row + stride : nullptr;
    for (int64_t d = 0; d < plan.size; d += VL) {
      __builtin_prefetch(row + 8 * stride + d);
      store(to + d, load_across(row + d, next ? next + d : nullptr, lanes_left(plan.size - d)));
    }
  }
}

/// Packs up to MR rows for the micro-kernel's left operand; rows beyond are zero.
template <class T>
DT_INLINE void pack_strip(const Plan& plan, float* to, const T* from, int64_t stride, int64_t rows) {
  pack_rows<T>(to, ROW_STRIDE, {from, stride, 1}, rows, plan.size);
  clear(to + rows * ROW_STRIDE, ROW_STRIDE, MR - rows, 0, divide_up(plan.size, STEP<T>));
}

/// scores = strip * (keys or values)^T for `count` columns in whole panels.
template <class T>
DT_INLINE void multiply_strip(const Plan& plan, float* scores, const float* strip, const float* panels, int64_t count) {
  const int64_t steps = divide_up(plan.size, STEP<T>);
  for (int64_t j = 0; j < count; j += NR) {
    multiply_tile<STEP<T>, float, MR, 2, ROW_STRIDE, 1, float>(scores + j, SCORES_STRIDE, nullptr, 0, nullptr, strip,
                                                               panels + j * steps, NR, steps);
  }
}

/// Lanes of the vector at `column` that lie below `visible`.
DT_INLINE vi below(int64_t column, int64_t visible) { return first_lanes(visible - column); }

/// To bf16 for a product, which takes subnormal numbers as zeros as this does.
DT_INLINE vh to_bf16_operand(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
  return to_bf16(x);
#endif
}

/// One row of a left operand, in place: pairs at the row's start where T is multiplied in pairs.
template <class T>
DT_INLINE void pair_along(float* row, int64_t columns) {
  if constexpr (STEP<T> == 2) {
    for (int64_t c = 0; c < columns; c += VL) store_half(reinterpret_cast<T*>(row) + c, to_bf16_operand(load(row + c)), VL);
  }
}

/// Two rows of a left operand whose sum goes over rows, as pairs: `second` is null where there is none.
DT_INLINE void pair_across(float* to, const float* first, const float* second, int64_t columns) {
  for (int64_t c = 0; c < columns; c += VL) {
    const vu low = __builtin_convertvector(to_bf16_operand(load(first + c)), vu);
    const vu high = second ? __builtin_convertvector(to_bf16_operand(load(second + c)), vu) : vu{};
    store(to + c, (vf)(low | high << 16));
  }
}

/// The state of online softmax of one block of queries.
struct Online {
  alignas(64) float top[QUERIES];
  alignas(64) float total[QUERIES];
  /// The factor of earlier keys' sums; between raise_tops and exponentiate its logarithm.
  alignas(64) float shrink[QUERIES];
};

/// Raises the running top of each row of a strip to the highest of its visible scores, times `scale`.
template <class Visible>
DT_INLINE void raise_tops(Online& online, int64_t first, int64_t rows, const float* scores, float scale, Visible visible) {
  for (int64_t r = 0; r < rows; ++r, scores += SCORES_STRIDE) {
    const int64_t count = visible(r), whole = count / VL * VL;
    vf highest = splat(-INFINITY);
    for (int64_t c = 0; c < whole; c += VL) highest = max(load(scores + c) * scale, highest);
    if (whole < count) highest = max(select(below(whole, count), load(scores + whole) * scale, highest), highest);
    const float before = online.top[first + r], here = hmax(highest);
    online.top[first + r] = before > here ? before : here;
    online.shrink[first + r] = before - online.top[first + r];
  }
}

/// Each row's scores become e^(scale score - top), zero past what is visible and up to `columns`; its total goes on from
/// earlier keys.
template <class Visible>
DT_INLINE void exponentiate(Online& online, int64_t first, int64_t rows, float* scores, int64_t columns, float scale,
                            Visible visible) {
  const vf factor = splat(scale);
  for (int64_t r = 0; r < MR; r += VL) {
    const int n = lanes_left(MR - r);
    store_part(online.shrink + first + r, exp(load_part(online.shrink + first + r, n)), n);
  }
  for (int64_t r = 0; r < rows; ++r, scores += SCORES_STRIDE) {
    const int64_t count = visible(r), whole = count / VL * VL;
    const vf shift = splat(-online.top[first + r]);
    vf total{};
    for (int64_t c = 0; c < whole; c += VL) {
      const vf e = exp(mul_add(load(scores + c), factor, shift));
      total += e;
      store(scores + c, e);
    }
    for (int64_t c = whole; c < columns; c += VL) {
      const vf e = select(below(c, count), exp(mul_add(load(scores + c), factor, shift)), vf{});
      total += e;
      store(scores + c, e);
    }
    online.total[first + r] = online.total[first + r] * online.shrink[first + r] + sum(total);
  }
}

template <class T>
void attention(const Call& call) {
  constexpr const char* op = "attention";
  constexpr int step = STEP<T>;
  const T* qkv = data_of<T>(op, "qkv", call.in(0));
  T* o = data_of<T>(op, "o", call.out(0));
  float* lse = data_of(op, "lse", call.outputs[1]);
  const Plan plan(op, call, call.in(0), call.attrs<abi::AttentionAttributes>());
  const int64_t length = plan.sequence, size = plan.size, stride = plan.padded_size, steps = divide_up(size, step);
  const int64_t pairs = plan.batch * plan.heads, blocks = divide_up(length, QUERIES);
  // Few pairs are split further, by blocks of queries.
  const int64_t split = least(blocks, divide_up(2 * call.pool->threads(), pairs ? pairs : 1));
  const int64_t scratch = (plan.padded_sequence + length + QUERIES) * stride + MR * ROW_STRIDE;

  call.pool->each(pairs * split, [&](int64_t task, int thread) {
    const int64_t b = task / split / plan.heads, h = task / split % plan.heads;
    const T* const q = qkv + b * length * plan.width + h * size;
    float* const keys = reinterpret_cast<float*>(call.workspace) + thread * round_up(scratch, 16);
    float* const values = keys + plan.padded_sequence * stride;
    float* const sums = values + length * stride;
    float* const strip = sums + QUERIES * stride;
    pack_panels<T>(keys, {q + plan.hidden, 1, plan.width}, size, length);
    pack_right(plan, values, q + 2 * plan.hidden, plan.width);

    for (int64_t block = task % split; block < blocks; block += split) {
      const int64_t q0 = block * QUERIES, q1 = least(q0 + QUERIES, length);
      Online online;
      for (int64_t r = 0; r < QUERIES; ++r) online.top[r] = -INFINITY, online.total[r] = 0;
      for (int64_t k0 = 0; k0 < (plan.causal ? q1 : length); k0 += KEYS)
        for (int64_t s = q0; s < q1; s += MR) {
          const int64_t rows = least(MR, q1 - s);
          const int64_t count = plan.visible(s + rows - 1, k0, least(KEYS, length - k0));
          if (count == 0) continue;
          alignas(64) float scores[MR * SCORES_STRIDE];
          pack_strip(plan, strip, q + s * plan.width, plan.width, rows);
          multiply_strip<T>(plan, scores, strip, keys + k0 * steps, count);
          const auto visible = [&](int64_t r) { return plan.visible(s + r, k0, count); };
          const int64_t columns = round_up(count, VL);
          raise_tops(online, s - q0, rows, scores, plan.scale, visible);
          exponentiate(online, s - q0, rows, scores, columns, plan.scale, visible);
          for (int64_t r = 0; plan.dropout.active && r < rows; ++r) {
            float* const row = scores + r * SCORES_STRIDE;
            alignas(64) float buffer[KEYS + 8 * VL];
            const float* kept = plan.dropout.factors(buffer, plan.first_sample + b, plan.element(h, s + r, k0), columns);
            for (int64_t c = 0; c < columns; c += VL) store(row + c, load(row + c) * load(kept + c));
          }
          for (int64_t r = 0; r < rows; ++r) pair_along<T>(scores + r * SCORES_STRIDE, columns);
          for (int64_t d = 0; d < size; d += NR) {
            const Tile tile{s - q0, d, rows, least(NR, size - d)};
            const float* const v = values + k0 / step * stride + d;
            const Rows<float> target{sums, stride};
            const Rows<const float> nothing{nullptr, 0};
            const auto go_on = [&](vf value, int64_t row, int64_t column, int lanes) {
              const vf earlier = load_part(sums + row * stride + column, lanes);
              return mul_add(earlier, splat(online.shrink[row]), value);
            };
            const int64_t depth = divide_up(count, step);
            if (k0) multiply_add<step, SCORES_STRIDE, 1>(tile, scores, v, stride, depth, target, nothing, finish_with(go_on));
            else multiply_add<step, SCORES_STRIDE, 1>(tile, scores, v, stride, depth, target, nothing);
          }
        }
      for (int64_t t = q0; t < q1; ++t) {
        const float total = online.total[t - q0];
        const vf inverse = splat(1.0f / total);
        T* const out = o + (b * length + t) * plan.hidden + h * size;
        for (int64_t d = 0; d < size; d += VL) {
          store_part(out + d, load(sums + (t - q0) * stride + d) * inverse, lanes_left(size - d));
        }
        if (lse) lse[(b * plan.heads + h) * length + t] = online.top[t - q0] + std::log(total);
      }
    }
  });
}

/// With P the probabilities and F dropout's factors, one row of scores S and of dP = dO V^T becomes P F and
/// scale P (F dP - delta), both zero past `visible` and up to `columns`.
DT_INLINE void differentiate(float* scores, float* dprobabilities, const float* kept, int64_t visible, int64_t columns,
                             float scale, float lse, float delta) {
  const vf factor = splat(scale), shift = splat(-lse);
  const auto step = [&](int64_t c, auto masked) {
    const vf p = exp(mul_add(load(scores + c), factor, shift));
    vf dp = load(dprobabilities + c);
    vf dropped = p;
    if (kept) {
      const vf f = load(kept + c);
      dp *= f;
      dropped *= f;
    }
    vf ds = p * factor * (dp - delta);
    if constexpr (masked.value) {
      const vi mask = below(c, visible);
      dropped = select(mask, dropped, vf{});
      ds = select(mask, ds, vf{});
    }
    store(scores + c, dropped);
    store(dprobabilities + c, ds);
  };
  const int64_t whole = visible / VL * VL;
  for (int64_t c = 0; c < whole; c += VL) step(c, std::false_type{});
  for (int64_t c = whole; c < columns; c += VL) step(c, std::true_type{});
}

/// Sums of gradients wait in dqkv itself or, where that is of 16 bits, in scratch memory: those of all queries, and of one block of keys.
template <class T>
void attention_backward(const Call& call) {
  constexpr const char* op = "attention_backward";
  constexpr int step = STEP<T>;
  const T* d_o = data_of<T>(op, "do", call.in(0));
  const T* qkv = data_of<T>(op, "qkv", call.in(1));
  const T* o = data_of<T>(op, "o", call.in(2));
  const float* lse = data_of(op, "lse", call.in(3));
  T* dqkv = data_of<T>(op, "dqkv", call.out(0));
  const Plan plan(op, call, call.in(1), call.attrs<abi::AttentionBackwardAttributes>());
  const int64_t length = plan.sequence, size = plan.size, stride = plan.padded_size, width = plan.width, hidden = plan.hidden;
  const int64_t steps = divide_up(size, step);
  const int64_t halves = is_half<T> ? (length + 2 * KEYS) * stride + QUERIES * SCORES_STRIDE : 0;
  const int64_t scratch =
      (2 * plan.padded_sequence + 3 * length) * stride + 2 * MR * ROW_STRIDE + 2 * QUERIES * SCORES_STRIDE + length + halves;

  call.pool->each(plan.batch * plan.heads, [&](int64_t pair, int thread) {
    const int64_t b = pair / plan.heads, h = pair % plan.heads;
    const T* const q = qkv + b * length * width + h * size;
    const T* const d_out = d_o + b * length * hidden + h * size;
    T* const dq = dqkv + b * length * width + h * size;

    float* const key_panels = reinterpret_cast<float*>(call.workspace) + thread * round_up(scratch, 16);
    float* const value_panels = key_panels + plan.padded_sequence * stride;
    float* const key_rows = value_panels + plan.padded_sequence * stride;
    float* const query_rows = key_rows + length * stride;
    float* const d_rows = query_rows + length * stride;
    float* const query_strip = d_rows + length * stride;
    float* const d_strip = query_strip + MR * ROW_STRIDE;
    float* const scores = d_strip + MR * ROW_STRIDE;
    float* const dscores = scores + QUERIES * SCORES_STRIDE;
    float* const score_pairs = dscores + QUERIES * SCORES_STRIDE;
    float* const dscore_pairs = score_pairs + (is_half<T> ? QUERIES / 2 * SCORES_STRIDE : 0);
    float* const query_sums = dscore_pairs + (is_half<T> ? QUERIES / 2 * SCORES_STRIDE : 0);
    float* const key_sums = query_sums + (is_half<T> ? length * stride : 0);
    float* const value_sums = key_sums + (is_half<T> ? KEYS * stride : 0);
    float* const deltas = value_sums + (is_half<T> ? KEYS * stride : 0);
    pack_panels<T>(key_panels, {q + hidden, 1, width}, size, length);
    pack_panels<T>(value_panels, {q + 2 * hidden, 1, width}, size, length);
    pack_right(plan, key_rows, q + hidden, width);
    pack_right(plan, query_rows, q, width);
    pack_right(plan, d_rows, d_out, hidden);
    for (int64_t t = 0; t < length; ++t) {
      const T* const out = o + (b * length + t) * hidden + h * size;
      vf total{};
      for (int64_t d = 0; d < size; d += VL) {
        __builtin_prefetch(out + 16 * hidden + d);
        const int lanes = lanes_left(size - d);
        total = mul_add(load_part(d_out + t * hidden + d, lanes), load_part(out + d, lanes), total);
      }
      deltas[t] = sum(total);
    }
    const auto rows_at = [](auto* to, float* sums, int64_t to_stride, int64_t sums_stride) {
      if constexpr (is_half<T>) return Rows<float>{sums, sums_stride};
      else return Rows<float>{to, to_stride};
    };
    const auto begun_of = [](Rows<float> rows, bool begun) { return Rows<const float>{begun ? rows.data : nullptr, rows.stride}; };
    const auto finish = [&](T* to, const float* sums, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t d = 0; d < size; d += VL) store_part(to + r * width + d, load(sums + r * stride + d), lanes_left(size - d));
    };

    for (int64_t k0 = 0; k0 < length; k0 += KEYS) {
      const int64_t keys = least(KEYS, length - k0);
      const int64_t first = plan.causal ? k0 / QUERIES * QUERIES : 0;
      T* const dk = dq + hidden + k0 * width;
      T* const dv = dk + hidden;
      const Rows<float> to_q = rows_at(dq, query_sums, width, stride);
      const Rows<float> to_k = rows_at(dk, key_sums, width, stride), to_v = rows_at(dv, value_sums, width, stride);
      for (int64_t q0 = first; q0 < length; q0 += QUERIES) {
        const int64_t q1 = least(q0 + QUERIES, length);
        for (int64_t s = q0; s < q1; s += MR) {
          const int64_t rows = least(MR, q1 - s);
          const int64_t count = plan.visible(s + rows - 1, k0, keys);
          if (count == 0) continue;
          // A tile of keys reads rows of scores from its first key's query on: they are zero for a tile past what they see.
          const int64_t columns = least(KEYS, round_up(count + MR, VL));
          float* const row_scores = scores + (s - q0) * SCORES_STRIDE;
          float* const row_dscores = dscores + (s - q0) * SCORES_STRIDE;
          pack_strip(plan, query_strip, q + s * width, width, rows);
          pack_strip(plan, d_strip, d_out + s * hidden, hidden, rows);
          multiply_strip<T>(plan, row_scores, query_strip, key_panels + k0 * steps, count);
          multiply_strip<T>(plan, row_dscores, d_strip, value_panels + k0 * steps, count);
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t at = r * SCORES_STRIDE;
            alignas(64) float buffer[KEYS + 8 * VL];
            const float* kept = nullptr;
            if (plan.dropout.active) {
              kept = plan.dropout.factors(buffer, plan.first_sample + b, plan.element(h, s + r, k0), columns);
            }
            differentiate(row_scores + at, row_dscores + at, kept, plan.visible(s + r, k0, keys), columns, plan.scale,
                          lse[pair * length + s + r], deltas[s + r]);
          }
          if constexpr (step == 2) {
            for (int64_t r = 0; r < rows; r += 2) {
              const int64_t at = r * SCORES_STRIDE, next = at + SCORES_STRIDE, to = (s - q0 + r) / 2 * SCORES_STRIDE;
              const bool two = r + 1 < rows;
              pair_across(score_pairs + to, row_scores + at, two ? row_scores + next : nullptr, columns);
              pair_across(dscore_pairs + to, row_dscores + at, two ? row_dscores + next : nullptr, columns);
              pair_along<T>(row_dscores + at, columns);
              if (two) pair_along<T>(row_dscores + next, columns);
            }
          }
          for (int64_t d = 0; d < size; d += NR) {
            const Tile tile{s, d, rows, least(NR, size - d)};
            multiply_add<step, SCORES_STRIDE, 1>(tile, row_dscores, key_rows + k0 / step * stride + d, stride, divide_up(count, step),
                                                 to_q, begun_of(to_q, k0 > 0));
          }
        }
        for (int64_t j = 0; j < keys; j += MR) {
          // The first query of the block that sees one of these keys: even, so that pairs stay whole.
          const int64_t from = plan.causal ? greatest(q0, k0 + j) : q0;
          if (from >= q1) break;
          const int64_t at = (from - q0) / step * SCORES_STRIDE + j, depth = divide_up(q1 - from, step);
          const float* const left = (step == 2 ? score_pairs : scores) + at;
          const float* const d_left = (step == 2 ? dscore_pairs : dscores) + at;
          const bool begun = q0 > (plan.causal ? (k0 + j) / QUERIES * QUERIES : 0);
          for (int64_t d = 0; d < size; d += NR) {
            const Tile tile{j, d, least(MR, keys - j), least(NR, size - d)};
            multiply_add<step, 1, SCORES_STRIDE>(tile, left, d_rows + from / step * stride + d, stride, depth, to_v,
                                                 begun_of(to_v, begun));
            multiply_add<step, 1, SCORES_STRIDE>(tile, d_left, query_rows + from / step * stride + d, stride, depth, to_k,
                                                 begun_of(to_k, begun));
          }
        }
      }
      if constexpr (is_half<T>) {
        finish(dk, key_sums, keys);
        finish(dv, value_sums, keys);
      }
    }
    if constexpr (is_half<T>) finish(dq, query_sums, length);
  });
}

}  // namespace

void add_attention(KernelTable& table) {
  add_kernel(table, abi::Opcode::attention, [](const Call& call) {
    with_float("attention", "qkv", call.in(0), [&]<class T>(TypeTag<T>) { attention<T>(call); });
  });
  add_kernel(table, abi::Opcode::attention_backward, [](const Call& call) {
    with_float("attention_backward", "qkv", call.in(1), [&]<class T>(TypeTag<T>) { attention_backward<T>(call); });
  });
}

}  // namespace deeptroupe::DT_ISA
