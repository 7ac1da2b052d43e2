// Constants and initial values. Normal draws are a function of (seed, parameter, element): a shard draws its own part only, with the bits
// of kernels/cpu/fill.cpp.
#include <vector>

#include "../abi/random.h"
#include "each.h"
#include "ranges.h"

namespace deeptroupe::gpu {

namespace {

/// What of a fill is asked of the device: the rounding.
template <class T>
struct Fill {
  static constexpr int held = 4;
  T* y;
  double value;

  template <int N>
  struct Held {};

  __device__ T rounded() const {
    if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, f16>) return from_float<T>(static_cast<float>(value));
    else return static_cast<T>(value);
  }
  template <int N>
  __device__ void load(int64_t, Held<N>&) const {}
  template <int N>
  __device__ void store(int64_t at, const Held<N>&) const {
    Pack<T, N> pack;
    const T one = rounded();
#pragma unroll
    for (int n = 0; n < N; ++n) pack.at[n] = one;
    store_pack(y + at, pack);
  }
};

template <class T>
void fill_with(const char* op, const Call& call, T* y, int64_t count, double value) {
  each<per_pack<T>>(op, call, count, aligned(16, y), Fill<T>{y, value});
}

void fill(const Call& call) {
  const Tensor& y = call.out(0);
  const double value = call.attrs<abi::FillAttributes>().value;
  const auto with = [&]<class T>(T) { fill_with("fill", call, y.as<T>(), y.elements(), value); };
  switch (y.dtype) {
    case DType::f32: return with(float{});
    case DType::f64: return with(double{});
    case DType::bf16: return with(bf16{});
    case DType::f16: return with(f16{});
    case DType::i32: return with(int32_t{});
    case DType::u8: return with(uint8_t{});
  }
}

constexpr int threads = 256;
/// Bytes that one block zeroes.
constexpr int64_t zero_tile = 65536;

/// Ranges in elements of `size` bytes; a gap starts and ends on any of them.
__global__ __launch_bounds__(threads) void zero_kernel(std::byte* memory, const DT_PARAMETER Ranges ranges) {
  const Tile tile = own_tile(ranges, zero_tile);
  std::byte* const begin = memory + tile.begin;
  std::byte* const end = memory + tile.end;
  const auto up = [](std::byte* p) { return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(p) + 15) / 16 * 16); };
  std::byte* const body = up(begin) < end ? up(begin) : end;
  const int64_t words = (end - body) / 16;
  for (std::byte* p = begin + threadIdx.x; p < body; p += threads) *p = std::byte{0};
  for (int64_t i = threadIdx.x; i < words; i += threads) reinterpret_cast<uint4*>(body)[i] = make_uint4(0, 0, 0, 0);
  for (std::byte* p = body + 16 * words + threadIdx.x; p < end; p += threads) *p = std::byte{0};
}

void bucket(const Call& call) {
  const auto& attributes = call.attrs<abi::BucketAttributes>();
  const int64_t size = dtype_size(call.out(0).dtype);
  std::byte* memory = call.out(0).as<std::byte>();
  std::vector<int64_t> gaps(attributes.gaps(), attributes.gaps() + attributes.gaps_count);
  for (int64_t& number : gaps) number *= size;
  each_ranges(gaps.data(), attributes.gaps_count, 0, size * attributes.length, zero_tile, [&](const Ranges& ranges, unsigned blocks) {
    launch(zero_kernel, blocks, threads, 0, call.stream, memory, ranges);
  });
}

/// Elements `first` to `last` of a unit, those of `start` to `start + count` that this rank holds; unit[i] is element i of the whole.
struct Part {
  float* unit;
  int64_t first;
  int64_t last;
};

template <class A>
Part part_of(const char* op, const Call& call, const A& attributes) {
  const int64_t length = call.out(0).elements() * attributes.shards, end = attributes.start + attributes.count;
  const Slice slice = slice_of(call, length, attributes.shards);
  return {unit_base(op, "unit", call.out(0), length, slice), slice.first > attributes.start ? slice.first : attributes.start,
          slice.last < end ? slice.last : end};
}

void initialize_constant(const Call& call) {
  const auto& attributes = call.attrs<abi::InitializeConstantAttributes>();
  const Part part = part_of("initialize_constant", call, attributes);
  if (part.last <= part.first) return;
  fill_with("initialize_constant", call, part.unit + part.first, part.last - part.first, attributes.value);
}

struct Normal {
  /// Element 0 of the parameter, of which `first` to `last` are drawn.
  float* parameter;
  int64_t first, last;
  double mean, deviation;
  uint32_t key_low, key_high;
  const double* seed;
};

/// A thread draws the four elements of one counter.
__global__ __launch_bounds__(threads) void normal_kernel(const Normal o) {
  const int64_t at = (o.first / 4 + int64_t{blockIdx.x} * threads + threadIdx.x) * 4;
  if (at >= o.last) return;
  const uint64_t seed = static_cast<uint64_t>(*o.seed);
  const uint32_t key[2] = {static_cast<uint32_t>(seed) ^ o.key_low, static_cast<uint32_t>(seed >> 32) ^ o.key_high};
  double normal[4];
  normal_draws(static_cast<uint64_t>(at / 4), key, normal);
  Pack<float, 4> pack;
#pragma unroll
  for (int j = 0; j < 4; ++j) pack.at[j] = static_cast<float>(o.mean + o.deviation * normal[j]);
  if (at >= o.first && at + 4 <= o.last && reinterpret_cast<uintptr_t>(o.parameter + at) % 16 == 0) return store_pack(o.parameter + at, pack);
#pragma unroll
  for (int j = 0; j < 4; ++j)
    if (at + j >= o.first && at + j < o.last) o.parameter[at + j] = pack.at[j];
}

void initialize_normal(const Call& call) {
  constexpr const char* op = "initialize_normal";
  const auto& attributes = call.attrs<abi::InitializeNormalAttributes>();
  const Part part = part_of(op, call, attributes);
  if (part.last <= part.first) return;
  const Normal o{part.unit + attributes.start,
                 part.first - attributes.start,
                 part.last - attributes.start,
                 attributes.mean,
                 attributes.std,
                 static_cast<uint32_t>(attributes.key_low),
                 static_cast<uint32_t>(attributes.key_high),
                 call.scalars[0]};
  launch(normal_kernel, grid_of(op, blocks_of(blocks_of(o.last, 4) - o.first / 4, threads)), threads, 0, call.stream, o);
}

}  // namespace

void add_fill(KernelTable& table) {
  table.add(abi::Opcode::fill, fill);
  table.add(abi::Opcode::bucket, bucket);
  table.add(abi::Opcode::initialize_constant, initialize_constant);
  table.add(abi::Opcode::initialize_normal, initialize_normal);
}

}  // namespace deeptroupe::gpu
