// The packed matrix product C = initial + A B behind linear layers and attention: blocks of K, N and M for the caches
// (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008), and a micro-kernel whose tile of C
// stays in registers. Operands of f32, bf16 or f16, sums in f32. Each element of C is summed over fixed blocks of K in order and
// rounded once, so its bits depend on the shapes alone, never on threads or tiles.
#pragma once

#include <type_traits>

#include "convert.h"

namespace deeptroupe::DT_ISA {

/// The register tile: MR rows by NR columns, NR / VL vectors per row. All of it and one row of B fit into the registers.
#if defined(__AVX512F__)
inline constexpr int MR = 8;
#elif defined(__AVX2__)
inline constexpr int MR = 6;
#else
inline constexpr int MR = 4;
#endif
inline constexpr int NR = 2 * VL;

/// Packed operands consist of steps along K of 32 bits: one f32, to which 16-bit floats are widened, or the pair of bf16 that
/// the instruction set multiplies as it is.
#if defined(__AVX512BF16__)
template <class T>
inline constexpr int STEP = std::is_same_v<T, bf16> ? 2 : 1;
#else
template <class T>
inline constexpr int STEP = 1;
#endif

/// Cache blocks, in steps: MC x KC of A and MC x NC of C stay in L2 while panels of B, KC x NR, stream past; PANELS steps of
/// packed B stay in L3. `packing` in kernels/ops/linear.ts counts their bytes.
inline constexpr int64_t KC = 384;
inline constexpr int64_t MC = 96;
inline constexpr int64_t NC = 1536;
inline constexpr int64_t PANELS = 2 * KC * NC;
/// Distance of packed rows of A: an odd number of cache lines, so that rows fall into different sets.
inline constexpr int64_t A_STRIDE = KC + 16;
/// Sums of a result of 16 bits between blocks of K: a thread's MC x NC or, where panels do not hold all of K, SUM_ROWS x SUM_COLUMNS.
inline constexpr int64_t SUM_ROWS = 960;
inline constexpr int64_t SUM_COLUMNS = NC / 2;

static_assert(MC % MR == 0 && SUM_ROWS % MC == 0 && NC / 2 % NR == 0 && KC % 16 == 0);

DT_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
DT_INLINE int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }
DT_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
DT_INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/// Scratch of one product with a result of O: packed panels of B for all threads, a packed block of A for each, sums.
template <class O>
DT_INLINE size_t packing_bytes(int64_t threads) {
  const int64_t sums = is_half<O> ? greatest(threads * MC * NC, SUM_ROWS * SUM_COLUMNS) : 0;
  return (PANELS + threads * MC * A_STRIDE + sums) * sizeof(float);
}

/// A matrix in memory; strides in elements, one of which is 1.
template <class T>
struct Matrix {
  const T* data;
  int64_t row_stride;
  int64_t column_stride;

  DT_INLINE Matrix at(int64_t row, int64_t column) const {
    return {data + row * row_stride + column * column_stride, row_stride, column_stride};
  }
  DT_INLINE Matrix transposed() const { return {data, column_stride, row_stride}; }
};

/// One step of the transposition below: swaps the off-diagonal halves of 2 width x 2 width blocks in a pair of rows.
template <int width, int... lane>
DT_INLINE void exchange(vf& a, vf& b, std::integer_sequence<int, lane...>) {
  const vf upper = __builtin_shufflevector(a, b, (lane & width ? VL + lane - width : lane)...);
  b = __builtin_shufflevector(a, b, (lane & width ? VL + lane : lane + width)...);
  a = upper;
}
template <int width = 1>
DT_INLINE void transpose(vf (&rows)[VL]) {
  if constexpr (width < VL) {
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
      if (!(i & width)) exchange<width>(rows[i], rows[i + width], std::make_integer_sequence<int, VL>{});
    transpose<2 * width>(rows);
  }
}

/// VL steps of `count` elements that follow each other along K, zero beyond.
template <class T>
DT_INLINE vf load_steps(const T* p, int64_t count) {
#if defined(__AVX512BF16__)
  if constexpr (STEP<T> == 2) {
    if (count >= 2 * VL) return (vf)_mm512_loadu_si512(p);
    return (vf)_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << count) - 1), p);
  }
#endif
  return load_part(p, lanes_left(count));
}

/// One step of `count` <= VL neighbours across K: elements of `row` and, in pairs, of the row after it or zeros where that is null.
template <class T>
DT_INLINE vf load_across(const T* row, const T* next, int count) {
#if defined(__AVX512BF16__)
  if constexpr (STEP<T> == 2) {
    const vu low = __builtin_convertvector(load_half(row, count), vu);
    const vu high = next ? __builtin_convertvector(load_half(next, count), vu) : vu{};
    return (vf)(low | high << 16);
  }
#endif
  return load_part(row, count);
}

/// Packs rows whose elements follow each other along K, `stride` steps apart.
template <class T>
inline void pack_rows(float* to, int64_t stride, Matrix<T> from, int64_t rows, int64_t depth) {
  constexpr int64_t span = VL * STEP<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const T* source = from.data + r * from.row_stride;
    float* target = to + r * stride;
    for (int64_t k = 0; k < depth; k += span) {
      __builtin_prefetch(source + 8 * from.row_stride + k);
      store_part(target + k / STEP<T>, load_steps(source + k, depth - k), lanes_left(divide_up(depth - k, STEP<T>)));
    }
  }
}

/// Packs rows whose elements lie across K into strips [strip][step][MR], `stride` steps a row apart; rows beyond are zero.
template <class T>
inline void pack_strips(float* to, int64_t stride, Matrix<T> from, int64_t rows, int64_t depth) {
  // Strips that fill a vector are packed together, from one load.
  constexpr int64_t together = VL / MR > 0 ? VL / MR : 1;
  for (int64_t k = 0; k < depth; k += STEP<T>) {
    const T* row = from.data + k * from.column_stride;
    const T* next = k + 1 < depth ? row + from.column_stride : nullptr;
    float* target = to + k / STEP<T> * MR;
    for (int64_t ahead = 0; ahead < rows; ahead += 64 / sizeof(T)) {
      __builtin_prefetch(row + 8 * from.column_stride + ahead);
      if (STEP<T> == 2) __builtin_prefetch(row + 9 * from.column_stride + ahead);
    }
    int64_t r = 0;
    if constexpr (together * MR == VL) {
      for (; r + VL <= rows; r += VL) {
        const vf units = load_across(row + r, next ? next + r : nullptr, VL);
        for (int64_t strip = 0; strip < together; ++strip, target += MR * stride)
          std::memcpy(target, reinterpret_cast<const float*>(&units) + strip * MR, sizeof(float) * MR);
      }
    }
    for (; r < rows; r += MR, target += MR * stride)
      for (int64_t u = 0; u < MR; u += VL) {
        const int lanes = lanes_left(MR - u), there = static_cast<int>(greatest(0, least(lanes, rows - r - u)));
        store_part(target + u, load_across(row + r + u, next ? next + r + u : nullptr, there), lanes);
      }
  }
}

/// Packs a depth x columns matrix into panels of NR columns, [panel][step][NR], the last one padded with zeros.
template <class T>
inline void pack_panels(float* to, Matrix<T> from, int64_t depth, int64_t columns) {
  const int64_t steps = divide_up(depth, STEP<T>);
  for (int64_t c = 0; c < columns; c += NR, to += steps * NR) {
    const int64_t width = least(NR, columns - c);
    const Matrix<T> panel = from.at(0, c);
    if (panel.column_stride == 1) {
      for (int64_t k = 0; k < depth; k += STEP<T>) {
        const T* row = panel.data + k * panel.row_stride;
        const T* next = k + 1 < depth ? row + panel.row_stride : nullptr;
        __builtin_prefetch(row + 16 * panel.row_stride);
        __builtin_prefetch(row + 16 * panel.row_stride + NR - 1);
        if (STEP<T> == 2) __builtin_prefetch(row + 17 * panel.row_stride);
        for (int64_t u = 0; u < NR; u += VL) {
          const int there = static_cast<int>(greatest(0, least(VL, width - u)));
          store(to + k / STEP<T> * NR + u, load_across(row + u, next ? next + u : nullptr, there));
        }
      }
      continue;
    }
    constexpr int64_t span = VL * STEP<T>;
    for (int64_t k = 0; k < depth; k += span) {
      const int64_t here = least(VL, divide_up(depth - k, STEP<T>));
      // Two blocks ahead: in these columns or, at their end, at the beginning of the next panel's.
      const int64_t ahead = k + 2 * span < depth ? 2 * span : NR * panel.column_stride + 2 * span - round_up(depth, span);
      for (int64_t u = 0; u < NR; u += VL) {
        vf block[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i) {
          const T* source = panel.data + (u + i) * panel.column_stride + k;
          __builtin_prefetch(source + ahead);
          block[i] = u + i < width ? load_steps(source, depth - k) : vf{};
        }
        transpose(block);
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i)
          if (i < here) store(to + (k / STEP<T> + i) * NR + u, block[i]);
      }
    }
  }
}

/// Zeroes columns `from` to `to` of rows that are `stride` apart.
DT_INLINE void clear(float* data, int64_t stride, int64_t rows, int64_t from, int64_t to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = from; c < to; ++c) data[r * stride + c] = 0;
}

/// sum += A B for one step of a row of V vectors: one product per lane, or the two of a pair.
template <int step>
DT_INLINE vf multiply_step(const float* a, vf row, vf sum) {
#if defined(__AVX512BF16__)
  if constexpr (step == 2) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof pair);
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)row);
  }
#endif
  return mul_add(splat(*a), row, sum);
}

/// sum += A B for a tile of M rows and V vectors of columns. A's strides are constants, so that every element of A has a
/// fixed address beside one pointer; rows of B are `stride` apart.
template <int step, int M, int V, int row_stride, int column_stride>
DT_INLINE void multiply(vf (&sum)[M][V], const float* a, const float* b, int64_t stride, int64_t steps) {
#pragma GCC unroll 4
  for (int64_t k = 0; k < steps; ++k) {
    vf row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + v * VL);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = multiply_step<step>(a + m * row_stride, row[v], sum[m][v]);
    a += column_stride;
    b += stride;
  }
}

/// A B for one register tile, stored as rows of O that are `to_stride` apart, after adding `before` (rows `before_stride` apart)
/// and then `bias`, a row, where they are there.
template <int step, class O, int M, int V, int row_stride, int column_stride, class B = float>
__attribute__((noinline)) void multiply_tile(O* to, int64_t to_stride, const B* before, int64_t before_stride, const O* bias,
                                             const float* a, const float* b, int64_t stride, int64_t steps) {
  vf sum[M][V] = {};
  multiply<step, M, V, row_stride, column_stride>(sum, a, b, stride, steps);
  if (before) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = load(before + m * before_stride + v * VL) + sum[m][v];
  }
  if (bias) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const vf row = load(bias + v * VL);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sum[m][v] = sum[m][v] + row;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(to + m * to_stride + v * VL, sum[m][v]);
}

/// Where a register tile lies in C, and how much of it.
struct Tile {
  int64_t row;
  int64_t column;
  int64_t rows;
  int64_t columns;
};

/// Rows of elements; element (row, column) of C lies at data + row * stride + column.
template <class T>
struct Rows {
  T* data;
  int64_t stride;

  DT_INLINE T* at(int64_t row, int64_t column) const { return data + row * stride + column; }
};

/// What is done to the sums of a tile (rows of NR) before they are stored: a bias, a row of C's dtype, is added in registers; `apply`
/// sees them in memory. Not a template parameter of the product, which would be compiled again for each.
struct Finish {
  void (*apply)(const void* context, float* sums, const Tile& tile) = nullptr;
  const void* context = nullptr;
  const void* bias = nullptr;
  /// Bytes of a matrix of C's layout that it reads or writes, to be fetched while the tile is multiplied.
  const char* operand = nullptr;
  int64_t row_bytes = 0, element_bytes = 0;
};

/// f(value, row, column, lanes) for each vector of the tile; `operand`, rows of n elements, is fetched ahead. The Finish holds f's address.
template <class F, class T = float>
DT_INLINE Finish finish_with(const F& f, const T* operand = nullptr, int64_t n = 0) {
  const auto apply = [](const void* context, float* sums, const Tile& tile) {
    const F& f = *static_cast<const F*>(context);
    for (int64_t r = 0; r < tile.rows; ++r)
      for (int64_t s = 0; s < tile.columns; s += VL) {
        float* const at = sums + r * NR + s;
        store(at, f(load(at), tile.row + r, tile.column + s, lanes_left(tile.columns - s)));
      }
  };
  return {apply, &f, nullptr, reinterpret_cast<const char*>(operand), n * static_cast<int64_t>(sizeof(T)), sizeof(T)};
}

/// One register tile of C = finish(before + A B). A is given at the tile's first row, B at its first column.
template <int step, int row_stride, int column_stride, class O, class B>
DT_INLINE void multiply_add(Tile tile, const float* a, const float* b, int64_t b_stride, int64_t steps, Rows<O> c,
                            Rows<const B> before, Finish finish = {}) {
  O* const to = c.at(tile.row, tile.column);
  for (int64_t r = 0; r < tile.rows; ++r) {
    __builtin_prefetch(to + r * c.stride, 1);
    __builtin_prefetch(to + r * c.stride + tile.columns - 1, 1);
    if (before.data) {
      __builtin_prefetch(before.at(tile.row + r, tile.column));
      __builtin_prefetch(before.at(tile.row + r, tile.column + tile.columns - 1));
    }
    if (!finish.operand) continue;
    const char* const operand = finish.operand + (tile.row + r) * finish.row_bytes + tile.column * finish.element_bytes;
    __builtin_prefetch(operand);
    __builtin_prefetch(operand + tile.columns * finish.element_bytes - 1);
  }
  const O* const bias = finish.bias ? static_cast<const O*>(finish.bias) + tile.column : nullptr;
  if (!finish.apply && tile.rows == MR && tile.columns == NR) {
    const auto* old = before.data ? before.at(tile.row, tile.column) : nullptr;
    return multiply_tile<step, O, MR, 2, row_stride, column_stride>(to, c.stride, old, before.stride, bias, a, b, b_stride, steps);
  }
  alignas(64) float sums[MR * NR];
  const float* const none = nullptr;
  if (tile.columns > VL) multiply_tile<step, float, MR, 2, row_stride, column_stride>(sums, NR, none, 0, none, a, b, b_stride, steps);
  else multiply_tile<step, float, MR, 1, row_stride, column_stride>(sums, NR, none, 0, none, a, b, b_stride, steps);
  if (before.data || bias) {
    for (int64_t r = 0; r < tile.rows; ++r)
      for (int64_t s = 0; s < tile.columns; s += VL) {
        const int lanes = lanes_left(tile.columns - s);
        vf value = load(sums + r * NR + s);
        if (before.data) value = load_part(before.at(tile.row + r, tile.column + s), lanes) + value;
        if (bias) value = value + load_part(bias + s, lanes);
        store(sums + r * NR + s, value);
      }
  }
  if (finish.apply) finish.apply(finish.context, sums, tile);
  for (int64_t r = 0; r < tile.rows; ++r)
    for (int64_t s = 0; s < tile.columns; s += VL)
      store_part(to + r * c.stride + s, load(sums + r * NR + s), lanes_left(tile.columns - s));
}

/// C (m x n, rows `c_stride` apart) = finish(initial + A B), A m x k and B k x n. `initial` has C's layout, may be C
/// itself, or is null for zero. `finish` is applied once to each final tile of C. The call's workspace begins with
/// packing_bytes<O>(threads).
template <class T, class O>
__attribute__((noinline)) void gemm(const Call& call, int64_t m, int64_t n, int64_t k, Matrix<T> a, Matrix<T> b, O* c, int64_t c_stride,
                 const O* initial, Finish finish = {}) {
  if (m == 0 || n == 0) return;
  constexpr int64_t step = STEP<T>;
  float* const panels = reinterpret_cast<float*>(call.workspace);
  float* const blocks = panels + PANELS;
  float* const sums = blocks + call.pool->threads() * MC * A_STRIDE;
  // A product of microseconds is not worth waking threads for.
  const bool alone = m * n * k <= (1 << 20);
  const int64_t threads = alone ? 1 : call.pool->threads();
  const auto each = [&](int64_t tasks, auto&& body) {
    if (!alone) return call.pool->each(tasks, body);
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
  };

  // Depths in steps from here on.
  const int64_t depth = divide_up(k, step);
  const int64_t k_blocks = depth ? divide_up(depth, KC) : 1;
  const int64_t k_block = round_up(divide_up(depth, k_blocks), 16);
  // Packed at a time: n_chunk columns of B and as many blocks of K as PANELS holds.
  const int64_t n_limit = depth ? greatest(NC / 2, least(NC, PANELS / (k_blocks * k_block) / NR * NR)) : NC;
  const int64_t n_chunk = round_up(divide_up(n, divide_up(n, n_limit)), NR);
  const int64_t k_chunk = greatest(1, PANELS / (n_chunk * k_block)) * k_block;
  // Sums that wait for further blocks of K lie in C itself or, where that is of 16 bits, in scratch memory.
  const bool in_pieces = is_half<O> && depth > k_chunk;
  const int64_t m_chunk = in_pieces ? round_up(divide_up(m, divide_up(m, SUM_ROWS)), MR) : m;

  for (int64_t n0 = 0; n0 < n; n0 += n_chunk)
    for (int64_t r0 = 0; r0 < m; r0 += m_chunk) {
      const int64_t columns = least(n_chunk, n - n0), chunk_rows = least(m_chunk, m - r0);
      const int64_t width = round_up(columns, NR);
      // Strips of rows are split evenly over the threads, and columns too where the rows do not suffice.
      const int64_t strips = divide_up(chunk_rows, MR);
      const int64_t m_blocks = least(strips, round_up(divide_up(chunk_rows, MC), threads));
      const int64_t n_split = least(width / NR, divide_up(threads, m_blocks));
      const int64_t n_block = divide_up(width / NR, n_split) * NR;
      for (int64_t s0 = 0; s0 == 0 || s0 < depth; s0 += k_chunk) {
        const int64_t s1 = least(s0 + k_chunk, depth);

        const int64_t share = round_up(divide_up(width, 4 * threads), NR);
        const int64_t shares = divide_up(width, share);
        each(divide_up(s1 - s0, k_block) * shares, [&](int64_t task, int) {
          const int64_t k0 = s0 + task / shares * k_block;
          const int64_t steps = least(k_block, s1 - k0);
          const int64_t from = task % shares * share;
          float* const to = panels + (k0 - s0) * width + from * steps;
          pack_panels(to, b.at(k0 * step, n0 + from), least(steps * step, k - k0 * step), least(share, columns - from));
        });

        each(m_blocks * n_split, [&](int64_t task, int thread) {
          const int64_t m_at = task / n_split;
          const int64_t first = m_at * strips / m_blocks * MR, m0 = r0 + first;
          const int64_t rows = least((m_at + 1) * strips / m_blocks * MR, chunk_rows) - first;
          const int64_t from = task % n_split * n_block;
          const int64_t to = least(from + n_block, columns);
          if (from >= to) return;
          float* const block = blocks + thread * MC * A_STRIDE;
          const auto partial = [&] {
            if constexpr (!is_half<O>) return Rows<float>{c, c_stride};
            else if (in_pieces) return Rows<float>{sums - r0 * width - n0, width};
            else return Rows<float>{sums + thread * MC * NC - m0 * width - n0, width};
          }();
          for (int64_t k0 = s0; k0 == s0 || k0 < s1; k0 += k_block) {
            const int64_t steps = least(k_block, s1 - k0), elements = least(steps * step, k - k0 * step);
            const Matrix<T> rows_of_a = a.at(m0, k0 * step);
            const bool along = a.column_stride == 1;
            if (along) {
              pack_rows(block, A_STRIDE, rows_of_a, rows, elements);
              clear(block + rows * A_STRIDE, A_STRIDE, round_up(rows, MR) - rows, 0, steps);
            } else {
              pack_strips(block, A_STRIDE, rows_of_a, rows, elements);
            }
            const bool last = k0 + steps >= depth;
            for (int64_t j = from; j < to; j += NR)
              for (int64_t i = 0; i < rows; i += MR) {
                const Tile tile{m0 + i, n0 + j, least(MR, rows - i), least(NR, to - j)};
                const float* const left = block + i * A_STRIDE;
                const float* const panel = panels + (k0 - s0) * width + j * steps;
                const auto add = [&](auto target, auto before, Finish f = {}) {
                  if (along) multiply_add<step, A_STRIDE, 1>(tile, left, panel, NR, steps, target, before, f);
                  else multiply_add<step, 1, MR>(tile, left, panel, NR, steps, target, before, f);
                };
                const Rows<O> result{c, c_stride};
                const Rows<const O> start{initial, c_stride};
                const Rows<const float> sum{k0 ? partial.data : nullptr, partial.stride};
                if (k0) {
                  if (last) add(result, sum, finish);
                  else add(partial, sum);
                } else {
                  if (last) add(result, start, finish);
                  else add(partial, start);
                }
              }
          }
        });
      }
    }
}

}  // namespace deeptroupe::DT_ISA
