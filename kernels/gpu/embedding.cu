// Rows of a table by index, and their gradient. Tokens are sorted by row, by the data loader or on the device, so that each row's gradients
// are added in token order by threads that own its columns: the bits depend on nothing else.
#include "each.h"

namespace deeptroupe::gpu {

namespace {

/// Units of memory, `per_row` to a row.
template <class U>
struct Gather {
  static constexpr int held = 4;
  const U* weight;
  const int32_t* indices;
  U* y;
  int64_t rows, per_row;
  Fault* fault;
  unsigned instruction;

  template <int N>
  struct Held {
    U unit;
    int32_t index;
  };

  __device__ bool known(int64_t index) const { return index >= 0 && index < rows; }

  template <int N>
  __device__ void load(int64_t at, Held<N>& pack) const {
    const int64_t token = quotient_of(at, per_row);
    pack.index = indices[token];
    pack.unit = weight[(known(pack.index) ? pack.index : 0) * per_row + at - token * per_row];
  }
  template <int N>
  __device__ void store(int64_t at, const Held<N>& pack) const {
    y[at] = known(pack.index) ? pack.unit : U{};
    if (!known(pack.index)) report(fault, instruction, pack.index, rows);
  }
};

template <class U>
void gather(const Call& call, int64_t row_bytes) {
  const int64_t per_row = row_bytes / static_cast<int64_t>(sizeof(U)), tokens = call.in(1).elements();
  const Gather<U> body{call.in(0).as<const U>(),
                       data_of<int32_t>("embedding", "indices", call.in(1)),
                       call.out(0).as<U>(),
                       call.in(0).dims[0],
                       per_row,
                       call.fault,
                       call.instruction};
  each<1>("embedding", call, tokens * per_row, false, body);
}

void embedding(const Call& call) {
  const Tensor& weight = call.in(0);
  const Tensor& y = call.out(0);
  if (y.dtype != weight.dtype) fail("embedding", "dtype of y", dtype_name(weight.dtype), dtype_name(y.dtype));
  const int64_t bytes = weight.last() * dtype_size(weight.dtype);
  const auto fits = [&](int unit) { return bytes % unit == 0 && aligned(unit, weight.as<char>(), y.as<char>()); };
  if (fits(16)) gather<Word<16>>(call, bytes);
  else if (fits(8)) gather<Word<8>>(call, bytes);
  else if (fits(4)) gather<Word<4>>(call, bytes);
  else gather<Word<2>>(call, bytes);
}

/// A token's row in the high half, its position in the low: no two are equal, so that any sort leaves one order.
using Key = unsigned long long;
constexpr Key no_key = ~Key{0};

/// Keys that one block sorts.
constexpr int tile = 4096;
constexpr int sort_threads = 1024;

/// Bitonic sort (Batcher, 1968) of one tile in shared memory. Tokens whose row is none of the table are reported and come last, as
/// do those that fill the last tile up.
__global__ __launch_bounds__(sort_threads) void sort_tiles_kernel(const int32_t* indices, const int64_t tokens, const int64_t rows, Key* keys,
                                                                  Fault* fault, const unsigned instruction) {
  __shared__ Key shared[tile];
  const int64_t first = int64_t{blockIdx.x} * tile;
  for (int i = threadIdx.x; i < tile; i += sort_threads) {
    Key key = no_key;
    if (first + i < tokens) {
      const int64_t index = indices[first + i];
      if (index >= 0 && index < rows) key = static_cast<Key>(index) << 32 | static_cast<Key>(first + i);
      else report(fault, instruction, index, rows);
    }
    shared[i] = key;
  }
  for (int size = 2; size <= tile; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int pair = threadIdx.x; pair < tile / 2; pair += sort_threads) {
        const int low = 2 * pair - pair % distance, high = low + distance;
        const Key a = shared[low], b = shared[high];
        const bool up = (low & size) == 0;
        if (up ? a > b : a < b) shared[low] = b, shared[high] = a;
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < tile; i += sort_threads) keys[first + i] = shared[i];
}

constexpr int threads = 256;

/// How many of `keys` are below `key`.
__device__ inline int64_t lower_bound(const Key* keys, int64_t count, Key key) {
  int64_t low = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    if (keys[low + half] < key) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

/// Merges neighbouring runs of `run` sorted keys: a key moves up by those of the other run that are below it. Keys that fill up are equal:
/// of the second run they count those of the first that are not above.
__global__ __launch_bounds__(threads) void merge_kernel(const Key* from, Key* to, const int64_t count, const int64_t run) {
  const int64_t at = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at >= count) return;
  const int64_t own = at / run, start = own / 2 * 2 * run, other = (own ^ 1) * run;
  const int64_t length = other >= count ? 0 : count - other < run ? count - other : run;
  const Key key = from[at];
  // Only fillers are equal, and they lie behind every other key: those of the second run go behind the whole first.
  const int64_t below = key == no_key ? (own & 1 ? length : lower_bound(from + other, length, key)) : lower_bound(from + other, length, key);
  to[start + at % run + below] = key;
}

/// order[i] = the position of sorted token i; -1 where it has no row.
__global__ __launch_bounds__(threads) void order_kernel(const Key* keys, int32_t* order, const int64_t tokens) {
  const int64_t at = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at < tokens) order[at] = keys[at] == no_key ? -1 : static_cast<int32_t>(keys[at]);
}

/// Tokens in the order of their rows.
struct Sorted {
  const int32_t* indices;
  const int32_t* order;
  int64_t tokens, rows;

  /// The row of sorted token `at`; `rows` where it has none and lies behind all.
  __device__ int64_t row(int64_t at) const {
    const int32_t position = order[at];
    return position < 0 || position >= tokens ? rows : indices[position];
  }
};

/// starts[row] = the first sorted token of that row or of one behind it, for rows 0 to `rows`. Where `fault` is not null, tokens whose
/// row is none of the table are reported.
__global__ __launch_bounds__(threads) void starts_kernel(const Sorted sorted, int32_t* starts, Fault* fault, const unsigned instruction) {
  const int64_t row = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (fault && row < sorted.tokens) {
    const int64_t index = sorted.indices[row];
    if (index < 0 || index >= sorted.rows) report(fault, instruction, index, sorted.rows);
  }
  if (row > sorted.rows) return;
  int64_t low = 0;
  for (int64_t count = sorted.tokens; count > 0;) {
    const int64_t half = count / 2;
    const bool below = sorted.row(low + half) < row;
    low = below ? low + half + 1 : low;
    count = below ? count - half - 1 : half;
  }
  starts[row] = static_cast<int32_t>(low);
}

template <class T, class O>
struct Rows {
  Sorted sorted;
  const int32_t* starts;
  const T* dy;
  const O* base;
  O* dweight;
  int64_t width;

  __device__ int32_t position(int64_t at) const { return sorted.order[at]; }
};

/// A row with more tokens than this has a block to itself.
constexpr int few = 16;

/// sum += g, rounded to O.
template <class O, class T, int N>
__device__ inline void accumulate(float (&sum)[N], const Pack<T, N>& pack) {
  float g[N];
  widen(pack, g);
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n] = to_float(from_float<O>(sum[n] + g[n]));
}

/// Rows of few tokens or none, N columns a thread.
template <class T, class O, int N>
__global__ __launch_bounds__(threads) void few_kernel(const Rows<T, O> o) {
  constexpr int ahead = 4;
  const int64_t per_row = o.width / N, at = int64_t{blockIdx.x} * threads + threadIdx.x, row = quotient_of(at, per_row);
  if (row >= o.sorted.rows) return;
  const int64_t column = (at - row * per_row) * N;
  const int begin = o.starts[row], end = o.starts[row + 1];
  if (end - begin > few || (begin == end && o.base == o.dweight)) return;
  float sum[N] = {};
  if (o.base) load_floats(o.base + row * o.width + column, sum);
  for (int first = begin; first < end; first += ahead) {
    Pack<T, N> packs[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (first + i < end) packs[i] = load_pack<N>(o.dy + int64_t{o.position(first + i)} * o.width + column);
#pragma unroll
    for (int i = 0; i < ahead; ++i)
      if (first + i < end) accumulate<O>(sum, packs[i]);
  }
  store_floats(o.dweight + row * o.width + column, sum);
}

/// Bytes of gradients that a thread of a frequent row has on their way to it.
constexpr int in_flight = 256;

/// Rows of more than a few tokens, one a block, N columns a thread. Block i owns the row of sorted token i * few if no earlier block
/// does: every such row has one.
template <class T, class O, int N>
__global__ __launch_bounds__(threads) void many_kernel(const Rows<T, O> o) {
  constexpr int most = in_flight / (N * static_cast<int>(sizeof(T))), ahead = most < warp ? most : warp;
  const int64_t sorted = int64_t{blockIdx.x} * few;
  const int64_t row = o.sorted.row(sorted), column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * N;
  if (row < 0 || row >= o.sorted.rows) return;
  const int begin = o.starts[row], end = o.starts[row + 1];
  if (end - begin <= few || sorted - begin >= few) return;
  const bool own = column < o.width;
  const int lane = threadIdx.x % warp;
  float sum[N] = {};
  if (own && o.base) load_floats(o.base + row * o.width + column, sum);
  // Each lane fetches the position of one of the next tokens; all take them by shuffles.
  int32_t position = begin + lane < end ? o.position(begin + lane) : 0;
  for (int first = begin; first < end; first += warp) {
    const int32_t held = position;
    if (first + warp + lane < end) position = o.position(first + warp + lane);
    const int count = end - first < warp ? end - first : warp;
    for (int part = 0; part < count; part += ahead) {
      Pack<T, N> packs[ahead];
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int64_t token = shuffle(held, part + i);
        if (own && part + i < count) packs[i] = load_pack<N>(o.dy + token * o.width + column);
      }
#pragma unroll
      for (int i = 0; i < ahead; ++i)
        if (own && part + i < count) accumulate<O>(sum, packs[i]);
    }
  }
  if (own) store_floats(o.dweight + row * o.width + column, sum);
}

/// Tokens' gradients of T onto a table of O.
template <class T, class O>
void embedding_backward(const Call& call) {
  constexpr const char* op = "embedding_backward";
  const int32_t* indices = data_of<int32_t>(op, "indices", call.in(0));
  const int64_t rows = call.out(0).dims[0], width = call.out(0).last(), tokens = call.in(0).elements();
  if (rows == 0 || width == 0) return;
  if (tokens > INT32_MAX - tile) fail(op, "tokens", "at most 2147479551", std::to_string(tokens));
  const bool told = call.has_in(3);
  const int64_t tiles = blocks_of(tokens, tile), count = tiles * tile;
  need_workspace(op, call, sizeof(int32_t) * (rows + 1) + (told ? 0 : (2 * sizeof(Key) + sizeof(int32_t)) * count));
  // Keys first: they need the widest border.
  Key* keys = reinterpret_cast<Key*>(call.workspace);
  Key* merged = keys + count;
  int32_t* const made = reinterpret_cast<int32_t*>(merged + count);
  int32_t* const starts = told ? reinterpret_cast<int32_t*>(call.workspace) : made + count;
  if (!told && tokens > 0) {
    launch(sort_tiles_kernel, grid_of(op, tiles), sort_threads, 0, call.stream, indices, tokens, rows, keys, call.fault, call.instruction);
    for (int64_t run = tile; run < count; run *= 2) {
      launch(merge_kernel, grid_of(op, blocks_of(count, threads)), threads, 0, call.stream, keys, merged, count, run);
      std::swap(keys, merged);
    }
    launch(order_kernel, grid_of(op, blocks_of(tokens, threads)), threads, 0, call.stream, keys, made, tokens);
  }
  const Sorted sorted{indices, told ? data_of<int32_t>(op, "order", call.in(3)) : made, tokens, rows};
  const int64_t looked_at = told ? std::max(rows + 1, tokens) : rows + 1;
  launch(starts_kernel, grid_of(op, blocks_of(looked_at, threads)), threads, 0, call.stream, sorted, starts, told ? call.fault : nullptr, call.instruction);

  const Rows<T, O> o{sorted,
                     starts,
                     data_of<T>(op, "dy", call.in(1)),
                     data_of<O>(op, "base", call.inputs[2]),
                     data_of<O>(op, "dweight", call.out(0)),
                     width};
  const auto add_rows = [&]<int wide, int N>(std::integral_constant<int, wide>, std::integral_constant<int, N>) {
    launch(few_kernel<T, O, wide>, grid_of(op, blocks_of(rows * (width / wide), threads)), threads, 0, call.stream, o);
    if (tokens <= few) return;
    const int64_t columns = width / N, block = columns < threads ? blocks_of(columns, warp) * warp : threads;
    if (blocks_of(columns, block) > 65535) fail(op, "width", "at most 16776960", std::to_string(width));
    const dim3 grid(static_cast<unsigned>(blocks_of(tokens, few)), static_cast<unsigned>(blocks_of(columns, block)));
    launch(many_kernel<T, O, N>, grid, static_cast<unsigned>(block), 0, call.stream, o);
  };
  constexpr std::integral_constant<int, 1> one;
  constexpr std::integral_constant<int, 4> four;
  if (!aligned(16, o.dy, o.base, o.dweight) || width % 4 != 0) add_rows(one, one);
  else if (width % per_pack<T> != 0) add_rows(four, four);
  else add_rows(std::integral_constant<int, per_pack<T>>{}, four);
}

__global__ __launch_bounds__(threads) void arange_kernel(int32_t* y, const int64_t count) {
  const int64_t at = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (at < count) y[at] = static_cast<int32_t>(at);
}

void arange(const Call& call) {
  const int64_t count = call.out(0).elements();
  if (count == 0) return;
  launch(arange_kernel, grid_of("arange", blocks_of(count, threads)), threads, 0, call.stream, data_of<int32_t>("arange", "y", call.out(0)), count);
}

}  // namespace

void add_embedding(KernelTable& table) {
  table.add(abi::Opcode::embedding, embedding);
  table.add(abi::Opcode::embedding_backward, [](const Call& call) {
    with_float(call.in(1).dtype, [&]<class T>(T) {
      with_gradient<T>("embedding_backward", "dweight", &call.out(0), [&]<class O>(O) { embedding_backward<T, O>(call); });
    });
  });
  table.add(abi::Opcode::arange, arange);
}

}  // namespace deeptroupe::gpu
