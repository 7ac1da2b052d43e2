// Parameter updates over flat units and the global norm that guards them. Every element goes through the sequence of IEEE operations of
// kernels/ops/optimizer.ts, so shards, blocks and vectors cannot change a bit. What varies per step is read from device memory.
#include <vector>

#include "../abi/random.h"
#include "../abi/step.h"
#include "pack.h"
#include "ranges.h"

namespace deeptroupe::gpu {

namespace {

constexpr int threads = 256;
/// Elements that a block updates.
constexpr int tile = 16 * threads;

/// Calls `body.run<N>(i, constants)` for the elements of this block's tile: Body::update at once where they lie so that all operands allow it.
template <class Body>
__device__ inline void update_tile(const Body& body, const typename Body::Constants& constants, Tile own) {
  constexpr int update = Body::update;
  int64_t at = own.begin + threadIdx.x;
  if (body.packed(own.begin)) {
    const int64_t whole = own.begin + (own.end - own.begin) / update * update;
    for (int64_t i = own.begin + update * static_cast<int>(threadIdx.x); i < whole; i += update * threads) body.template run<update>(i, constants);
    at = whole + threadIdx.x;
  }
  for (; at < own.end; at += threads) body.template run<1>(at, constants);
}

/// One thread makes the constants from run-time scalars, in float64; the block uses them. With control[2] = 0 nothing is written.
template <class Body>
__global__ __launch_bounds__(threads) void update_kernel(const Body body, const DT_PARAMETER Ranges ranges) {
  __shared__ typename Body::Constants constants;
  if (body.control[2] == 0) return;
  if (threadIdx.x == 0) constants = body.constants();
  __syncthreads();
  update_tile(body, typename Body::Constants(constants), own_tile(ranges, tile));
}

template <class A, class Body>
void update_ranges(const Call& call, const A& attributes, Slice slice, const Body& body) {
  each_ranges(attributes.ranges(), attributes.ranges_count, slice.first, slice.last, tile, [&](const Ranges& ranges, unsigned blocks) {
    launch(update_kernel<Body>, blocks, threads, 0, call.stream, body, ranges);
  });
}

__device__ inline bool is_packed(const void* address, int bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

/// Where the two candidates for each of N run-time scalars lie.
template <int N>
struct Candidates {
  const double* scalars[2 * N];
  __device__ double of(const double* control, int role) const { return *(control[3] != 0 ? scalars[N + role] : scalars[role]); }
};

template <int N>
Candidates<N> candidates_of(const Call& call) {
  Candidates<N> result;
  for (int i = 0; i < 2 * N; ++i) result.scalars[i] = call.scalars[i];
  return result;
}

/// The bits of a bf16 neighbour of p, chosen by 16 random bits; what is not finite is rounded as ever.
__device__ inline bf16 round_stochastically(float p, uint32_t random) {
  const uint32_t exact = __float_as_uint(p);
  if ((exact & 0x7f800000u) == 0x7f800000u) return from_float<bf16>(p);
  return from_float<bf16>(__uint_as_float((exact + random) & 0xffff0000u));
}

/// Parameters of P, f32 or bf16, gradients of G; the new parameters also go to `copy`, in C, if it is there. Element 0 of each operand is
/// the unit's.
template <bool decoupled, class P, class G, class C>
struct Adam {
  static constexpr bool stochastic = sizeof(P) == 2;
  /// Of bf16 as many as one draw of random words is for.
  static constexpr int update = stochastic ? 8 : 4;

  P* parameter;
  const G* gradient;
  float* m;
  float* v;
  C* copy;
  const double* control;
  Candidates<5> candidates;
  const double* seed;
  const double* step;
  double weight_decay, epsilon;
  int64_t origin;

  struct Constants {
    float factor, b1, b2, rest1, rest2, root2, epsilon, decay, rate;
    uint32_t key[2], step;
  };

  __device__ Constants constants() const {
    const double rate = candidates.of(control, 0), beta1 = candidates.of(control, 1), beta2 = candidates.of(control, 2);
    const uint64_t seed_bits = stochastic ? static_cast<uint64_t>(*seed) : 0;
    return {static_cast<float>(control[1]),
            static_cast<float>(beta1),
            static_cast<float>(beta2),
            static_cast<float>(1 - beta1),
            static_cast<float>(1 - beta2),
            static_cast<float>(sqrt(candidates.of(control, 4))),
            static_cast<float>(epsilon),
            static_cast<float>(decoupled ? 1 - rate * weight_decay : weight_decay),
            static_cast<float>(-(rate / candidates.of(control, 3))),
            {static_cast<uint32_t>(seed_bits), static_cast<uint32_t>(seed_bits >> 32)},
            stochastic ? static_cast<uint32_t>(static_cast<uint64_t>(*step)) : 0};
  }

  __device__ bool packed(int64_t at) const {
    constexpr int bytes = update * sizeof(G) < 16 ? update * sizeof(G) : 16;
    return is_packed(parameter + at, 16) && is_packed(gradient + at, bytes) && is_packed(m + at, 16) && is_packed(v + at, 16) &&
           (!copy || is_packed(copy + at, update * sizeof(C))) && (!stochastic || (origin + at) % update == 0);
  }

  /// Rounds the parameters of elements i to i + N.
  template <int N>
  __device__ void round(int64_t i, const Constants& c, const float (&p)[N]) const {
    const uint64_t number = static_cast<uint64_t>(origin + i), block = number / 8;
    const uint32_t counter[4] = {rounding_counter, static_cast<uint32_t>(block >> 32), c.step, static_cast<uint32_t>(block)};
    uint32_t words[4];
    philox4x32(counter, c.key, words);
    Pack<P, N> rounded;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int own = N == 1 ? static_cast<int>(number % 8) : n;
      const uint32_t low = own & 2 ? words[1] : words[0], high = own & 2 ? words[3] : words[2], word = own & 4 ? high : low;
      rounded.at[n] = round_stochastically(p[n], own & 1 ? word >> 16 : word & 0xffffu);
    }
    store_pack(parameter + i, rounded);
  }

  template <int N>
  __device__ void run(int64_t i, const Constants& c) const {
    float own_p[N], own_m[N], own_v[N], own_g[N];
    load_floats(parameter + i, own_p);
    load_floats(m + i, own_m);
    load_floats(v + i, own_v);
    load_floats(gradient + i, own_g);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float p = own_p[n];
      float g = own_g[n] * c.factor;
      if (!decoupled) g = fmaf(c.decay, p, g);
      own_m[n] = fmaf(c.b1, own_m[n], c.rest1 * g);
      own_v[n] = fmaf(c.b2, own_v[n], (c.rest2 * g) * g);
      const float denominator = sqrtf(own_v[n]) / c.root2 + c.epsilon;
      if (decoupled) p = p * c.decay;
      own_p[n] = fmaf(c.rate, own_m[n] / denominator, p);
    }
    store_floats(m + i, own_m);
    store_floats(v + i, own_v);
    if constexpr (stochastic) {
      round(i, c, own_p);
    } else {
      store_floats(parameter + i, own_p);
      if (copy) store_pack(copy + i, narrow<C>(own_p));
    }
  }
};

void adam(const Call& call) {
  constexpr const char* op = "adam";
  const auto& attributes = call.attrs<abi::AdamAttributes>();
  const int64_t length = attributes.length;
  const Slice slice = slice_of(call, length, attributes.shards);
  with_float(call.in(1).dtype, [&]<class G>(G) {
    const auto run = [&]<bool decoupled, class P, class C>(std::bool_constant<decoupled>, P, C) {
      update_ranges(call, attributes, slice,
                    Adam<decoupled, P, G, C>{unit_base<P>(op, "parameter", call.in(0), length, slice),
                                             unit_base<G>(op, "gradient", call.in(1), length, slice),
                                             unit_base(op, "m", call.in(2), length, slice),
                                             unit_base(op, "v", call.in(3), length, slice),
                                             call.has_in(5) ? unit_base<C>(op, "copy", call.in(5), length, slice) : nullptr,
                                             data_of<double>(op, "control", call.in(4)),
                                             candidates_of<5>(call),
                                             call.scalars[10],
                                             call.scalars[11],
                                             attributes.weight_decay,
                                             attributes.epsilon,
                                             attributes.origin});
    };
    const auto with_types = [&]<class P, class C>(P parameter, C copy) {
      if (attributes.decoupled) run(std::true_type{}, parameter, copy);
      else run(std::false_type{}, parameter, copy);
    };
    if (call.in(0).dtype == DType::bf16) with_types(bf16{}, bf16{});
    else if (call.has_in(5) && call.in(5).dtype == DType::f16) with_types(float{}, f16{});
    else with_types(float{}, bf16{});
  });
}

template <class G>
struct Sgd {
  static constexpr int update = 4;

  float* parameter;
  const G* gradient;
  float* momentum;
  const double* control;
  Candidates<2> candidates;
  double weight_decay, momentum_factor, dampening;
  bool nesterov;

  struct Constants {
    float factor, decay, momentum, rest, rate;
    bool first;
  };

  __device__ Constants constants() const {
    return {static_cast<float>(control[1]),       static_cast<float>(weight_decay),    static_cast<float>(momentum_factor),
            static_cast<float>(1 - dampening), static_cast<float>(-candidates.of(control, 0)), candidates.of(control, 1) != 0};
  }

  __device__ bool packed(int64_t at) const {
    return is_packed(parameter + at, 16) && is_packed(gradient + at, update * sizeof(G)) && (!momentum || is_packed(momentum + at, 16));
  }

  template <int N>
  __device__ void run(int64_t i, const Constants& c) const {
    Pack<float, N> own_p = load_pack<N>(parameter + i), own_b;
    const Pack<G, N> own_g = load_pack<N>(gradient + i);
    if (momentum && !c.first) own_b = load_pack<N>(momentum + i);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float p = own_p.at[n];
      float g = fmaf(c.decay, p, to_float(own_g.at[n]) * c.factor);
      if (momentum) {
        const float b = c.first ? g : fmaf(c.momentum, own_b.at[n], c.rest * g);
        own_b.at[n] = b;
        g = nesterov ? fmaf(c.momentum, b, g) : b;
      }
      own_p.at[n] = fmaf(c.rate, g, p);
    }
    if (momentum) store_pack(momentum + i, own_b);
    store_pack(parameter + i, own_p);
  }
};

template <class G>
void sgd(const Call& call) {
  constexpr const char* op = "sgd";
  const auto& attributes = call.attrs<abi::SgdAttributes>();
  const int64_t length = attributes.length;
  const Slice slice = slice_of(call, length, attributes.shards);
  update_ranges(call, attributes, slice,
                Sgd<G>{unit_base(op, "parameter", call.in(0), length, slice),
                       unit_base<G>(op, "gradient", call.in(1), length, slice),
                       call.has_in(2) ? unit_base(op, "momentum", call.in(2), length, slice) : nullptr,
                       data_of<double>(op, "control", call.in(3)),
                       candidates_of<2>(call),
                       attributes.weight_decay,
                       attributes.momentum,
                       attributes.dampening,
                       attributes.nesterov != 0});
}

/// Elements of one chunk of the norm, chunks of a warp (eight lanes each, one a running sum) and warps of a block.
constexpr int norm_chunk = 1024, warp_chunks = 4;
template <class G>
constexpr int norm_warps = 8 / sizeof(G);

/// From chunk to chunk in shared memory: eight elements more, so that the lanes of a warp read from different banks.
constexpr int chunk_stride = norm_chunk + 8;

/// A warp reads its chunks by whole packs and keeps them in shared memory, where each lane finds every eighth element.
template <class G>
__global__ __launch_bounds__(warp* norm_warps<G>) void norm_kernel(const G* gradient, double* sums, const int64_t chunks) {
  __shared__ __align__(16) unsigned char memory[sizeof(G) * norm_warps<G> * warp_chunks * chunk_stride];
  constexpr int N = per_pack<G>, packs = norm_chunk / N / warp;
  const int lane = threadIdx.x % warp;
  G* const shared = reinterpret_cast<G*>(memory) + threadIdx.x / warp * warp_chunks * chunk_stride;
  const int64_t first = (int64_t{blockIdx.x} * norm_warps<G> + threadIdx.x / warp) * warp_chunks;
  const bool packed = is_packed(gradient, 16);
#pragma unroll
  for (int half = 0; half < warp_chunks; half += 2) {
    Pack<G, N> held[2][packs] = {};
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int p = 0; p < packs; ++p) {
        if (first + half + c >= chunks) continue;
        const G* const from = gradient + (first + half + c) * norm_chunk + (p * warp + lane) * N;
        if (packed) {
          held[c][p] = load_pack<N>(from);
        } else {
#pragma unroll
          for (int n = 0; n < N; ++n) held[c][p].at[n] = from[n];
        }
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int p = 0; p < packs; ++p) store_pack(shared + (half + c) * chunk_stride + (p * warp + lane) * N, held[c][p]);
  }
  warp_sync();
  const G* const own = shared + lane / 8 * chunk_stride + lane % 8;
  double sum = 0;
#pragma unroll 16
  for (int i = 0; i < norm_chunk; i += 8) {
    const double x = static_cast<double>(to_float(own[i]));
    sum += x * x;
  }
  // ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)); addition commutes, so all eight lanes come to the same.
  sum += shuffle_xor(sum, 1);
  sum += shuffle_xor(sum, 2);
  sum += shuffle_xor(sum, 4);
  const int64_t chunk = first + lane / 8;
  if (lane % 8 == 0 && chunk < chunks) sums[chunk] = sum;
}

template <class G>
void norm_chunks(const Call& call) {
  constexpr const char* op = "norm_chunks";
  const auto& attributes = call.attrs<abi::NormChunksAttributes>();
  const Slice slice = slice_of(call, attributes.length, attributes.shards);
  const G* gradient = unit_base<G>(op, "gradient", call.in(0), attributes.length, slice) + slice.first;
  double* sums = data_of<double>(op, "sums", call.out(0));
  const int64_t chunks = (slice.last - slice.first) / norm_chunk;
  if (chunks == 0) return;
  launch(norm_kernel<G>, grid_of(op, blocks_of(chunks, norm_warps<G> * warp_chunks)), warp * norm_warps<G>, 0, call.stream, gradient, sums, chunks);
}

/// Ranges of a tensor whose elements are laid end to end.
struct Pieces {
  Ranges ranges;
  /// What is added to an element's number to make its position.
  int64_t shift[Ranges::most];
};

__global__ __launch_bounds__(threads) void gather_kernel(const double* sums, double* sequence, const DT_PARAMETER Pieces pieces) {
  const Tile own = own_tile(pieces.ranges, threads);
  const int64_t at = own.begin + threadIdx.x;
  if (at < own.end) sequence[at + pieces.shift[own.range]] = sums[at];
}

/// Terms that one thread adds, one by one: a level of the tree over the sequence.
constexpr int branch = 32;

/// Two levels of the tree: to[i] = the sum of the sums of 32 runs of 32 terms.
__global__ __launch_bounds__(branch) void branches_kernel(const double* from, const int64_t count, double* to) {
  __shared__ double terms[branch][branch + 1];
  __shared__ double runs[branch];
  const int64_t first = int64_t{blockIdx.x} * branch * branch;
  const int there = static_cast<int>(count - first < branch * branch ? count - first : branch * branch), lane = threadIdx.x;
#pragma unroll 8
  for (int run = 0; run < branch; ++run)
    if (run * branch + lane < there) terms[run][lane] = from[first + run * branch + lane];
  __syncthreads();
  const int own = there - lane * branch < branch ? there - lane * branch : branch;
  if (own > 0) {
    double sum = terms[lane][0];
    for (int i = 1; i < own; ++i) sum += terms[lane][i];
    runs[lane] = sum;
  }
  __syncthreads();
  if (lane != 0) return;
  double sum = runs[0];
  for (int run = 1; run * branch < there; ++run) sum += runs[run];
  to[blockIdx.x] = sum;
}

__global__ void control_kernel(const double* total, const float* loss_scale, const double max_norm, double* control) {
  const double scale = loss_scale ? static_cast<double>(*loss_scale) : 1.0;
  const double norm = sqrt(total ? *total : 0.0) / scale, factor = max_norm / (norm + 1e-6);
  control[0] = norm;
  control[1] = (max_norm > 0 && factor < 1 ? factor : 1.0) / scale;
  control[2] = isfinite(norm) ? 1.0 : 0.0;
  control[3] = 0.0;
}

/// Ranges that follow one another are one, which changes no position of the sequence.
std::vector<int64_t> joined(const int64_t* pairs, int64_t numbers) {
  std::vector<int64_t> result;
  for (int64_t i = 0; i + 1 < numbers; i += 2) {
    if (pairs[i + 1] == 0) continue;
    if (!result.empty() && result[result.size() - 2] + result.back() == pairs[i]) result.back() += pairs[i + 1];
    else result.insert(result.end(), {pairs[i], pairs[i + 1]});
  }
  return result;
}

void clip_control(const Call& call) {
  constexpr const char* op = "clip_control";
  const auto& attributes = call.attrs<abi::ClipControlAttributes>();
  const double* sums = data_of<double>(op, "sums", call.in(0));
  const std::vector<int64_t> ranges = joined(attributes.ranges(), attributes.ranges_count);
  int64_t count = 0;
  for (size_t i = 1; i < ranges.size(); i += 2) count += ranges[i];
  double* next = reinterpret_cast<double*>(call.workspace);
  const double* terms = nullptr;
  if (ranges.size() == 2) {
    terms = sums + ranges[0];
  } else if (count > 0) {
    // Ranges are cut and dealt out in order, so positions follow from those before.
    Pieces pieces;
    int64_t position = 0;
    each_ranges(ranges.data(), static_cast<int64_t>(ranges.size()), 0, call.in(0).elements(), threads, [&](const Ranges& batch, unsigned blocks) {
      pieces.ranges = batch;
      for (int i = 0; i < batch.count; ++i) {
        pieces.shift[i] = position - batch.start[i];
        position += batch.end[i] - batch.start[i];
      }
      launch(gather_kernel, blocks, threads, 0, call.stream, sums, next, pieces);
    });
    terms = next;
    next += count;
  }
  while (count > 1) {
    const int64_t blocks = blocks_of(count, branch * branch);
    launch(branches_kernel, grid_of(op, blocks), branch, 0, call.stream, terms, count, next);
    terms = next;
    next += blocks;
    count = blocks;
  }
  launch(control_kernel, 1, 1, 0, call.stream, terms, call.has_in(1) ? data_of(op, "loss_scale", call.in(1)) : nullptr, attributes.max_norm,
         data_of<double>(op, "control", call.out(0)));
}

__global__ void loss_scale_kernel(const double* state, const double factor, float* y) { *y = static_cast<float>(factor * state[0]); }

void loss_scale(const Call& call) {
  constexpr const char* op = "loss_scale";
  launch(loss_scale_kernel, 1, 1, 0, call.stream, data_of<double>(op, "state", call.in(0)), call.attrs<abi::LossScaleAttributes>().factor,
         data_of(op, "y", call.out(0)));
}

__global__ void step_kernel(const abi::StepControlAttributes rule, const double* taken, const double* follows, const double* control, double* state,
                            double* decided) {
  control_step(rule, *taken, *follows, control, state, decided);
}

void step_control(const Call& call) {
  constexpr const char* op = "step_control";
  launch(step_kernel, 1, 1, 0, call.stream, call.attrs<abi::StepControlAttributes>(), call.scalars[0], call.scalars[1],
         data_of<double>(op, "control", call.in(0)), data_of<double>(op, "state", call.out(1)), data_of<double>(op, "control", call.out(0)));
}

}  // namespace

void add_optimizer(KernelTable& table) {
  table.add(abi::Opcode::adam, adam);
  table.add(abi::Opcode::sgd, [](const Call& call) {
    with_float(call.in(1).dtype, [&]<class G>(G) { sgd<G>(call); });
  });
  table.add(abi::Opcode::norm_chunks, [](const Call& call) {
    with_float(call.in(0).dtype, [&]<class G>(G) { norm_chunks<G>(call); });
  });
  table.add(abi::Opcode::clip_control, clip_control);
  table.add(abi::Opcode::loss_scale, loss_scale);
  table.add(abi::Opcode::step_control, step_control);
}

}  // namespace deeptroupe::gpu
