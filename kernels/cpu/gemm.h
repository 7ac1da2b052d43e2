// The packed matrix product C = initial + A B behind linear layers and attention: blocks of K, N and M for the caches
// (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008), and a micro-kernel whose tile of C
// stays in registers. Each element of C is summed over fixed blocks of K in order, so its bits depend on the shapes alone,
// never on threads or tiles.
#pragma once

#include <type_traits>

#include "isa.h"

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

/// Cache blocks: MC x KC of A and MC x NC of C stay in L2 while panels of B, KC x NR, stream past; PANELS elements of
/// packed B stay in L3. `packing` in kernels/ops/linear.ts counts their bytes.
inline constexpr int64_t KC = 384;
inline constexpr int64_t MC = 96;
inline constexpr int64_t NC = 1536;
inline constexpr int64_t PANELS = 2 * KC * NC;
/// Distance of packed rows of A: an odd number of cache lines, so that rows fall into different sets.
inline constexpr int64_t A_STRIDE = KC + 16;

/// Scratch of one product: packed panels of B for all threads, a packed block of A for each.
DT_INLINE size_t packing_bytes(int threads) { return (PANELS + threads * MC * A_STRIDE) * sizeof(float); }

static_assert(MC % MR == 0 && NC / 2 % NR == 0 && KC % 16 == 0);

DT_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
DT_INLINE int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }
DT_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
DT_INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

/// A matrix in memory; strides in elements.
struct Matrix {
  const float* data;
  int64_t row_stride;
  int64_t column_stride;

  DT_INLINE Matrix at(int64_t row, int64_t column) const {
    return {data + row * row_stride + column * column_stride, row_stride, column_stride};
  }
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

/// Copies a matrix to rows of contiguous elements, `stride` apart.
inline void pack(float* to, int64_t stride, Matrix from, int64_t rows, int64_t columns) {
  if (from.column_stride == 1) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* source = from.data + r * from.row_stride;
      float* target = to + r * stride;
      for (int64_t ahead = 0; ahead < columns; ahead += 16) __builtin_prefetch(source + 8 * from.row_stride + ahead);
      int64_t c = 0;
      for (; c + VL <= columns; c += VL) store(target + c, load(source + c));
      if (c < columns) store_part(target + c, load_part(source + c, lanes_left(columns - c)), lanes_left(columns - c));
    }
    return;
  }
  const int64_t whole_rows = from.row_stride == 1 ? rows / VL * VL : 0;
  const int64_t whole_columns = whole_rows ? columns / VL * VL : 0;
  for (int64_t r = 0; r < whole_rows; r += VL)
    for (int64_t c = 0; c < whole_columns; c += VL) {
      vf block[VL];
#pragma GCC unroll 16
      for (int i = 0; i < VL; ++i) {
        const float* source = from.data + r + (c + i) * from.column_stride;
        __builtin_prefetch(source + 2 * VL);
        block[i] = load(source);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < VL; ++i) store(to + (r + i) * stride + c, block[i]);
    }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < columns; ++c)
      to[r * stride + c] = from.data[r * from.row_stride + c * from.column_stride];
}

/// Zeroes columns `from` to `to` of rows that are `stride` apart.
DT_INLINE void clear(float* data, int64_t stride, int64_t rows, int64_t from, int64_t to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = from; c < to; ++c) data[r * stride + c] = 0;
}

/// Packs a depth x columns matrix into panels of NR columns, [panel][depth][NR], the last one padded with zeros.
inline void pack_panels(float* to, Matrix from, int64_t depth, int64_t columns) {
  for (int64_t c = 0; c < columns; c += NR, to += depth * NR) {
    const int64_t width = least(NR, columns - c);
    pack(to, NR, from.at(0, c), depth, width);
    clear(to, NR, depth, width, NR);
  }
}

/// sum += A B for a tile of M rows and V vectors of columns. A's strides are constants, so that every element of A has a
/// fixed address beside one pointer; rows of B are `stride` apart.
template <int M, int V, int row_stride, int column_stride>
DT_INLINE void multiply(vf (&sum)[M][V], const float* a, const float* b, int64_t stride, int64_t depth) {
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    vf row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = load(b + v * VL);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const vf element = splat(a[m * row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = mul_add(element, row[v], sum[m][v]);
    }
    a += column_stride;
    b += stride;
  }
}

/// A B for one register tile, stored as rows that are `to_stride` apart, after adding `before` (same layout) if there is one.
template <int M, int V, int row_stride, int column_stride>
__attribute__((noinline)) void multiply_tile(float* to, int64_t to_stride, const float* before, const float* a, const float* b,
                                             int64_t stride, int64_t depth) {
  vf sum[M][V] = {};
  multiply<M, V, row_stride, column_stride>(sum, a, b, stride, depth);
  if (before) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] = load(before + m * to_stride + v * VL) + sum[m][v];
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(to + m * to_stride + v * VL, sum[m][v]);
}

/// Keeps a final element as it is.
struct Identity {
  DT_INLINE vf operator()(vf value, int64_t, int64_t, int) const { return value; }
};

/// Where a register tile lies in C, and how much of it.
struct Tile {
  int64_t row;
  int64_t column;
  int64_t rows;
  int64_t columns;
};

/// One register tile of C = finish(before + A B). A is given at the tile's first row, B at its first column.
template <int row_stride, int column_stride, class Finish>
DT_INLINE void multiply_add(Tile tile, const float* a, const float* b, int64_t b_stride, int64_t depth, float* c,
                            int64_t c_stride, const float* before, Finish finish) {
  const int64_t offset = tile.row * c_stride + tile.column;
  for (int64_t r = 0; r < tile.rows; ++r) {
    __builtin_prefetch(c + offset + r * c_stride, 1);
    __builtin_prefetch(c + offset + r * c_stride + tile.columns - 1, 1);
  }
  if constexpr (std::is_same_v<Finish, Identity>) {
    if (tile.rows == MR && tile.columns == NR) {
      const float* const old = before ? before + offset : nullptr;
      return multiply_tile<MR, 2, row_stride, column_stride>(c + offset, c_stride, old, a, b, b_stride, depth);
    }
  }
  alignas(64) float sums[MR * NR];
  if (tile.columns > VL) multiply_tile<MR, 2, row_stride, column_stride>(sums, NR, nullptr, a, b, b_stride, depth);
  else multiply_tile<MR, 1, row_stride, column_stride>(sums, NR, nullptr, a, b, b_stride, depth);
  for (int64_t r = 0; r < tile.rows; ++r)
    for (int64_t s = 0; s < tile.columns; s += VL) {
      const int lanes = lanes_left(tile.columns - s);
      const int64_t at = offset + r * c_stride + s;
      vf value = load(sums + r * NR + s);
      if (before) value = load_part(before + at, lanes) + value;
      store_part(c + at, finish(value, tile.row + r, tile.column + s, lanes), lanes);
    }
}

/// C (m x n, rows `c_stride` apart) = finish(initial + A B), A m x k and B k x n. `initial` has C's layout, may be C
/// itself, or is null for zero. `finish(value, row, column, lanes)` is applied once to each final vector of C. The call's
/// workspace begins with packing_bytes(threads).
template <class Finish = Identity>
inline void gemm(const Call& call, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, float* c, int64_t c_stride,
                 const float* initial, Finish finish = {}) {
  if (m == 0 || n == 0) return;
  float* const panels = reinterpret_cast<float*>(call.workspace);
  float* const blocks = panels + PANELS;
  // A product of microseconds is not worth waking threads for.
  const bool alone = m * n * k <= (1 << 20);
  const int64_t threads = alone ? 1 : call.pool->threads();
  const auto each = [&](int64_t tasks, auto&& body) {
    if (!alone) return call.pool->each(tasks, body);
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
  };

  const int64_t k_blocks = k ? divide_up(k, KC) : 1;
  const int64_t k_block = round_up(divide_up(k, k_blocks), 16);
  // Packed at a time: n_chunk columns of B and as many blocks of K as PANELS holds.
  const int64_t n_limit = k ? greatest(NC / 2, least(NC, PANELS / (k_blocks * k_block))) : NC;
  const int64_t n_chunk = round_up(divide_up(n, divide_up(n, n_limit)), NR);
  const int64_t k_chunk = greatest(1, PANELS / (n_chunk * k_block)) * k_block;
  // Rows are split evenly over the threads, and columns too where the rows do not suffice.
  const int64_t m_block = round_up(divide_up(m, round_up(divide_up(m, MC), threads)), MR);
  const int64_t m_blocks = divide_up(m, m_block);

  for (int64_t n0 = 0; n0 < n; n0 += n_chunk) {
    const int64_t columns = least(n_chunk, n - n0);
    const int64_t width = round_up(columns, NR);
    const int64_t n_split = least(width / NR, divide_up(threads, m_blocks));
    const int64_t n_block = divide_up(width / NR, n_split) * NR;
    for (int64_t s0 = 0; s0 == 0 || s0 < k; s0 += k_chunk) {
      const int64_t s1 = least(s0 + k_chunk, k);

      const int64_t share = round_up(divide_up(width, 4 * threads), NR);
      const int64_t shares = divide_up(width, share);
      each(divide_up(s1 - s0, k_block) * shares, [&](int64_t task, int) {
        const int64_t k0 = s0 + task / shares * k_block;
        const int64_t depth = least(k_block, s1 - k0);
        const int64_t from = task % shares * share;
        float* const to = panels + (k0 - s0) * width + from * depth;
        pack_panels(to, b.at(k0, n0 + from), depth, least(share, columns - from));
      });

      each(m_blocks * n_split, [&](int64_t task, int thread) {
        const int64_t m0 = task / n_split * m_block;
        const int64_t rows = least(m_block, m - m0);
        const int64_t from = task % n_split * n_block;
        const int64_t to = least(from + n_block, columns);
        if (from >= to) return;
        float* const block = blocks + thread * MC * A_STRIDE;
        for (int64_t k0 = s0; k0 == s0 || k0 < s1; k0 += k_block) {
          const int64_t depth = least(k_block, s1 - k0);
          const float* const before = k0 ? c : initial;
          pack(block, A_STRIDE, a.at(m0, k0), rows, depth);
          clear(block + rows * A_STRIDE, A_STRIDE, round_up(rows, MR) - rows, 0, depth);
          for (int64_t j = from; j < to; j += NR)
            for (int64_t i = 0; i < rows; i += MR) {
              const Tile tile{m0 + i, n0 + j, least(MR, rows - i), least(NR, to - j)};
              const float* const rows_of_a = block + i * A_STRIDE;
              const float* const panel = panels + (k0 - s0) * width + j * depth;
              const auto add = [&](auto f) {
                multiply_add<A_STRIDE, 1>(tile, rows_of_a, panel, NR, depth, c, c_stride, before, f);
              };
              if (k0 + depth < k) add(Identity{});
              else add(finish);
            }
        }
      });
    }
  }
}

}  // namespace deeptroupe::DT_ISA
