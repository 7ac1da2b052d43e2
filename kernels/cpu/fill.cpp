// Constants and initial values. Normal draws are a function of (seed, parameter, element): a shard draws its own part only.
#include "../abi/random.h"
#include "check.h"
#include "convert.h"
#include "unit.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 32768;
/// Elements of normal draws of one task: a multiple of the four that share a counter.
constexpr int64_t draws = 4096;

template <class T>
void fill_with(const Call& call, T value) {
  T* y = call.out(0).as<T>();
  each_block(call, call.out(0).elements(), block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = value;
  });
}

void fill(const Call& call) {
  const double value = call.attrs<abi::FillAttributes>().value;
  const vf single = splat(static_cast<float>(value));
  switch (call.out(0).dtype) {
    case DType::f32: return fill_with(call, static_cast<float>(value));
    case DType::f64: return fill_with(call, value);
    case DType::bf16: return fill_with(call, to_bf16(single)[0]);
    case DType::f16: return fill_with(call, to_f16(single)[0]);
    case DType::i32: return fill_with(call, static_cast<int32_t>(value));
    case DType::u8: return fill_with(call, static_cast<uint8_t>(value));
  }
}

void bucket(const Call& call) {
  const auto& attributes = call.attrs<abi::BucketAttributes>();
  const int64_t size = abi::dtype_bytes[static_cast<uint32_t>(call.out(0).dtype)];
  char* memory = call.out(0).as<char>();
  for (int64_t i = 0; i + 1 < attributes.gaps_count; i += 2) {
    std::memset(memory + size * attributes.gaps()[i], 0, size * attributes.gaps()[i + 1]);
  }
}

/// Elements `first` to `last` of a unit, those of `start` to `start + count` that this rank holds; unit[i] is element i of the whole.
struct Part {
  float* unit;
  int64_t first;
  int64_t last;
};

template <class A>
DT_INLINE Part part_of(const char* op, const Call& call, const A& attributes) {
  const int64_t length = call.out(0).elements() * attributes.shards, end = attributes.start + attributes.count;
  const Slice slice = slice_of(call, length, attributes.shards);
  return {unit_base(op, "unit", call.out(0), length, slice), slice.first > attributes.start ? slice.first : attributes.start,
          slice.last < end ? slice.last : end};
}

void initialize_constant(const Call& call) {
  const auto& attributes = call.attrs<abi::InitializeConstantAttributes>();
  const Part part = part_of("initialize_constant", call, attributes);
  const float value = static_cast<float>(attributes.value);
  each_block(call, part.last - part.first, block, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) part.unit[part.first + i] = value;
  });
}

void initialize_normal(const Call& call) {
  const auto& attributes = call.attrs<abi::InitializeNormalAttributes>();
  const Part part = part_of("initialize_normal", call, attributes);
  if (part.last <= part.first) return;
  // In the parameter's own coordinates.
  float* parameter = part.unit + attributes.start;
  const int64_t first = part.first - attributes.start, last = part.last - attributes.start;
  const int64_t origin = first / 4 * 4;
  const uint64_t seed = static_cast<uint64_t>(call.scalars[0]);
  const uint32_t key[2] = {static_cast<uint32_t>(seed) ^ static_cast<uint32_t>(attributes.key_low),
                           static_cast<uint32_t>(seed >> 32) ^ static_cast<uint32_t>(attributes.key_high)};
  const double mean = attributes.mean, deviation = attributes.std;
  each_block(call, last - origin, draws, [=](int64_t begin, int64_t end) {
    for (int64_t i = origin + begin; i < origin + end; i += 4) {
      double normal[4];
      normal_draws(static_cast<uint64_t>(i / 4), key, normal);
      for (int j = 0; j < 4; ++j) {
        if (i + j >= first && i + j < last) parameter[i + j] = static_cast<float>(mean + deviation * normal[j]);
      }
    }
  });
}

}  // namespace

void add_fill(KernelTable& table) {
  add_kernel(table, abi::Opcode::fill, fill);
  add_kernel(table, abi::Opcode::bucket, bucket);
  add_kernel(table, abi::Opcode::initialize_constant, initialize_constant);
  add_kernel(table, abi::Opcode::initialize_normal, initialize_normal);
}

}  // namespace deeptroupe::DT_ISA
