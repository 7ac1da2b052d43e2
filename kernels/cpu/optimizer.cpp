// Parameter updates over flat units and the global norm that guards them. Every element goes through one sequence of IEEE
// operations, whatever vector or block it falls into, so shards and threads cannot change a bit.
#include "../abi/step.h"
#include "philox.h"
#include "unit.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 65536;
constexpr int64_t norm_chunk = 1024;

DT_INLINE vf splat_rounded(double value) { return splat(static_cast<float>(value)); }

/// Calls body(begin, end) for runs of elements, in the unit's coordinates, that cover what `ranges` has in this rank's slice.
template <class A, class F>
DT_INLINE void each_run(const Call& call, const A& attributes, Slice slice, F body) {
  const int64_t* ranges = attributes.ranges();
  const int64_t count = attributes.ranges_count;
  each_block(call, slice.last - slice.first, block, [=](int64_t begin, int64_t end) {
    for (int64_t i = 0; i + 1 < count; i += 2) {
      const int64_t from = ranges[i], to = ranges[i] + ranges[i + 1];
      const int64_t first = from > slice.first + begin ? from : slice.first + begin;
      const int64_t last = to < slice.first + end ? to : slice.first + end;
      if (first < last) body(first, last);
    }
  });
}

/// The run-time scalars of the candidate that `control` says, of `count` roles.
const double* candidate_of(const Call& call, const double* control, int count) { return call.scalars + (control[3] != 0 ? count : 0); }

/// 16 random bits for each of 8 * VL neighbouring elements, by their global number.
struct Dice {
  static constexpr int64_t group = 8 * VL;
  int64_t drawn = -1;
  uint16_t bits[group];

  /// Elements from `n` on that one draw covers.
  static int64_t left(int64_t n) { return group - n % group; }

  /// Of element `n` and those after it, in the low halves of the lanes.
  DT_INLINE vu at(int64_t n, int count, const uint32_t key[2], uint32_t step) {
    if (n / group != drawn) {
      drawn = n / group;
      const uint64_t block = static_cast<uint64_t>(drawn) * VL;
      const uint32_t counter[4] = {rounding_counter, static_cast<uint32_t>(block >> 32), step, static_cast<uint32_t>(block)};
      vu words[4];
      philox4x32_vector(counter, key, words);
      std::memcpy(bits, words, sizeof bits);
    }
    return __builtin_convertvector(load_half(bits + n % group, count), vu);
  }
};

/// p rounded to a bf16 neighbour by 16 random bits in each lane; what is not finite stays.
DT_INLINE vf round_stochastically(vf p, vu random) {
  const vu exact = (vu)p;
  return select((exact & 0x7f800000u) != 0x7f800000u, (vf)((exact + random) & 0xffff0000u), p);
}

/// Gradients of G and parameters of P, f32 or bf16; the new parameters also go to `copy`, in C, if it is there.
template <bool decoupled, class P, class G, class C>
void adam_runs(const Call& call, const abi::AdamAttributes& attributes, const double* control) {
  constexpr const char* op = "adam";
  const int64_t length = attributes.length;
  const Slice slice = slice_of(call, length, attributes.shards);
  P* parameter = unit_base<P>(op, "parameter", call.in(0), length, slice);
  const G* gradient = unit_base<G>(op, "gradient", call.in(1), length, slice);
  float* first_moment = unit_base(op, "m", call.in(2), length, slice);
  float* second_moment = unit_base(op, "v", call.in(3), length, slice);
  C* copy = call.has_in(5) ? unit_base<C>(op, "copy", call.in(5), length, slice) : nullptr;
  const double* const scalars = candidate_of(call, control, 5);
  const double learning_rate = scalars[0], beta1 = scalars[1], beta2 = scalars[2];
  const vf factor = splat_rounded(control[1]);
  const vf b1 = splat_rounded(beta1), b2 = splat_rounded(beta2), rest1 = splat_rounded(1 - beta1), rest2 = splat_rounded(1 - beta2);
  const vf root2 = splat_rounded(std::sqrt(scalars[4])), epsilon = splat_rounded(attributes.epsilon);
  const vf decay = splat_rounded(decoupled ? 1 - learning_rate * attributes.weight_decay : attributes.weight_decay);
  const vf rate = splat_rounded(-(learning_rate / scalars[3]));
  constexpr bool stochastic = is_half<P>;
  const int64_t origin = attributes.origin;
  const uint64_t seed = stochastic ? static_cast<uint64_t>(call.scalars[10]) : 0;
  const uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  const uint32_t step = stochastic ? static_cast<uint32_t>(static_cast<uint64_t>(call.scalars[11])) : 0;
  each_run(call, attributes, slice, [=](int64_t begin, int64_t end) {
    Dice dice;
    for (int64_t i = begin, n; i < end; i += n) {
      n = lanes_left(end - i);
      if (stochastic && n > Dice::left(origin + i)) n = Dice::left(origin + i);
      vf p = load_part(parameter + i, n);
      vf g = load_part(gradient + i, n) * factor;
      if (!decoupled) g = fma(decay, p, g);
      const vf m = fma(b1, load_part(first_moment + i, n), rest1 * g);
      const vf v = fma(b2, load_part(second_moment + i, n), (rest2 * g) * g);
      const vf denominator = sqrt(v) / root2 + epsilon;
      if (decoupled) p = p * decay;
      store_part(first_moment + i, m, n);
      store_part(second_moment + i, v, n);
      p = fma(rate, m / denominator, p);
      if constexpr (stochastic) p = round_stochastically(p, dice.at(origin + i, static_cast<int>(n), key, step));
      store_part(parameter + i, p, n);
      if (copy) store_part(copy + i, p, n);
    }
  });
}

void adam(const Call& call) {
  const auto& attributes = call.attrs<abi::AdamAttributes>();
  const double* control = data_of<double>("adam", "control", call.in(4));
  if (control[2] == 0) return;
  with_float("adam", "gradient", call.in(1), [&]<class G>(TypeTag<G>) {
    const auto run = [&]<class P, class C>(TypeTag<P>, TypeTag<C>) {
      if (attributes.decoupled) adam_runs<true, P, G, C>(call, attributes, control);
      else adam_runs<false, P, G, C>(call, attributes, control);
    };
    if (call.in(0).dtype == DType::bf16) run(TypeTag<bf16>{}, TypeTag<bf16>{});
    else if (call.has_in(5) && call.in(5).dtype == DType::f16) run(TypeTag<float>{}, TypeTag<f16>{});
    else run(TypeTag<float>{}, TypeTag<bf16>{});
  });
}

template <class G>
void sgd(const Call& call) {
  constexpr const char* op = "sgd";
  const auto& attributes = call.attrs<abi::SgdAttributes>();
  const double* control = data_of<double>(op, "control", call.in(3));
  if (control[2] == 0) return;
  const int64_t length = attributes.length;
  const Slice slice = slice_of(call, length, attributes.shards);
  float* parameter = unit_base(op, "parameter", call.in(0), length, slice);
  const G* gradient = unit_base<G>(op, "gradient", call.in(1), length, slice);
  float* buffer = call.has_in(2) ? unit_base(op, "momentum", call.in(2), length, slice) : nullptr;
  const vf factor = splat_rounded(control[1]), decay = splat_rounded(attributes.weight_decay);
  const vf momentum = splat_rounded(attributes.momentum), rest = splat_rounded(1 - attributes.dampening);
  const double* const scalars = candidate_of(call, control, 2);
  const vf rate = splat_rounded(-scalars[0]);
  const bool first = scalars[1] != 0, nesterov = attributes.nesterov != 0;
  each_run(call, attributes, slice, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += VL) {
      const int n = lanes_left(end - i);
      const vf p = load_part(parameter + i, n);
      vf g = fma(decay, p, load_part(gradient + i, n) * factor);
      if (buffer) {
        const vf b = first ? g : fma(momentum, load_part(buffer + i, n), rest * g);
        store_part(buffer + i, b, n);
        g = nesterov ? fma(momentum, b, g) : b;
      }
      store_part(parameter + i, fma(rate, g, p), n);
    }
  });
}

/// The sum of squares of one chunk, in the order that kernels/ops/optimizer.ts fixes.
template <class G>
DT_INLINE double sum_of_squares(const G* gradient) {
  typedef float vf_half __attribute__((vector_size(2 * VL)));
  constexpr int half = VL / 2, vectors = 8 / half;
  float widened[norm_chunk];
  const float* x = widened;
  if constexpr (is_half<G>) {
    for (int64_t i = 0; i < norm_chunk; i += VL) store(widened + i, load(gradient + i));
  } else {
    x = gradient;
  }
  vd s[vectors] = {};
  for (int64_t i = 0; i < norm_chunk; i += 8) {
    for (int u = 0; u < vectors; ++u) {
      vf_half narrow;
      std::memcpy(&narrow, x + i + u * half, sizeof narrow);
      const vd wide = __builtin_convertvector(narrow, vd);
      s[u] += wide * wide;
    }
  }
  double t[8];
  std::memcpy(t, s, sizeof t);
  return ((t[0] + t[1]) + (t[2] + t[3])) + ((t[4] + t[5]) + (t[6] + t[7]));
}

template <class G>
void norm_chunks(const Call& call) {
  const auto& attributes = call.attrs<abi::NormChunksAttributes>();
  const Slice slice = slice_of(call, attributes.length, attributes.shards);
  const G* gradient = unit_base<G>("norm_chunks", "gradient", call.in(0), attributes.length, slice) + slice.first;
  double* sums = data_of<double>("norm_chunks", "sums", call.out(0));
  each_block(call, (slice.last - slice.first) / norm_chunk, block / norm_chunk, [=](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) sums[chunk] = sum_of_squares(gradient + chunk * norm_chunk);
  });
}

void clip_control(const Call& call) {
  const auto& attributes = call.attrs<abi::ClipControlAttributes>();
  const double* sums = data_of<double>("clip_control", "sums", call.in(0));
  double* control = data_of<double>("clip_control", "control", call.out(0));
  double total = 0;
  for (int64_t r = 0; r + 1 < attributes.ranges_count; r += 2) {
    const double* first = sums + attributes.ranges()[r];
    for (int64_t i = 0; i < attributes.ranges()[r + 1]; ++i) total += first[i];
  }
  const double scale = call.has_in(1) ? *data_of("clip_control", "loss_scale", call.in(1)) : 1;
  const double norm = std::sqrt(total) / scale, factor = attributes.max_norm / (norm + 1e-6);
  control[0] = norm;
  control[1] = (attributes.max_norm > 0 && factor < 1 ? factor : 1) / scale;
  control[2] = std::isfinite(norm) ? 1 : 0;
  control[3] = 0;
}

void loss_scale(const Call& call) {
  const double* state = data_of<double>("loss_scale", "state", call.in(0));
  *data_of("loss_scale", "y", call.out(0)) = static_cast<float>(call.attrs<abi::LossScaleAttributes>().factor * state[0]);
}

void step_control(const Call& call) {
  constexpr const char* op = "step_control";
  control_step(call.attrs<abi::StepControlAttributes>(), call.scalars[0], call.scalars[1], data_of<double>(op, "control", call.in(0)),
               data_of<double>(op, "state", call.out(1)), data_of<double>(op, "control", call.out(0)));
}

}  // namespace

void add_optimizer(KernelTable& table) {
  add_kernel(table, abi::Opcode::adam, adam);
  add_kernel(table, abi::Opcode::sgd, [](const Call& call) {
    with_float("sgd", "gradient", call.in(1), [&]<class G>(TypeTag<G>) { sgd<G>(call); });
  });
  add_kernel(table, abi::Opcode::norm_chunks, [](const Call& call) {
    with_float("norm_chunks", "gradient", call.in(0), [&]<class G>(TypeTag<G>) { norm_chunks<G>(call); });
  });
  add_kernel(table, abi::Opcode::clip_control, clip_control);
  add_kernel(table, abi::Opcode::loss_scale, loss_scale);
  add_kernel(table, abi::Opcode::step_control, step_control);
}

}  // namespace deeptroupe::DT_ISA
