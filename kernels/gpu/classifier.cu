// The pass of the fused head on Hopper: bf16 or f16 logits become their own gradient with one read and one write of memory. A block
// owns a multiprocessor and takes rows in turn. The copy engine brings rows into shared memory, two ahead where two fit; threads take
// their part into registers, which frees the buffer for the row after the next, agree on maximum and sum, and write gradients.
// Each row is worked on in the same way by whichever block, so that bits do not depend on the number of multiprocessors.
#include <algorithm>

#include "cross-entropy.h"

namespace deeptroupe::gpu {

#if defined(__HIP__)
bool enqueue_classifier(const Call&, const RowLoss&, DType, void*, int64_t, int64_t, const float*, double) { return false; }
#else
namespace {

constexpr int threads = 512;
/// Elements of a pack of 16 bytes, and the most packs that a thread holds.
constexpr int wide = 8, most_packs = 14;
constexpr int most_stages = 2;
/// Fewer classes leave most threads idle: rows are streamed then.
constexpr int64_t least_classes = 4096;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/// Two neighbours in a word.
template <class T>
struct Pairs;
template <>
struct Pairs<bf16> {
  static constexpr uint32_t minus_infinity = 0xff80;
  using Pair = __nv_bfloat162;
  __device__ static float2 floats(uint32_t word) { return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)}; }
  __device__ static Pair rounded(float low, float high) { return __floats2bfloat162_rn(low, high); }
};
template <>
struct Pairs<f16> {
  static constexpr uint32_t minus_infinity = 0xfc00;
  using Pair = __half2;
  __device__ static float2 floats(uint32_t word) { return __half22float2(reinterpret_cast<const Pair&>(word)); }
  __device__ static Pair rounded(float low, float high) { return __floats2half2_rn(low, high); }
};
template <class T>
__device__ inline uint32_t rounded(float low, float high) {
  const auto pair = Pairs<T>::rounded(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
template <class T>
__device__ inline uint32_t larger(uint32_t a, uint32_t b) {
  using Pair = typename Pairs<T>::Pair;
  const Pair pair = __hmax2(reinterpret_cast<const Pair&>(a), reinterpret_cast<const Pair&>(b));
  return reinterpret_cast<const uint32_t&>(pair);
}

/// Words of two in a pack of 16 bytes.
constexpr int words = wide / 2;

__device__ inline uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

__device__ inline void start_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

/// Has the copy engine bring a row, in pieces; the barrier's phase ends when all of it has come.
__device__ inline void fetch(uint64_t* barrier, std::byte* target, const std::byte* source, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
  constexpr uint32_t piece = 16384;
#pragma unroll 1
  for (uint32_t start = 0; start < bytes; start += piece) {
    const uint32_t size = bytes - start < piece ? bytes - start : piece;
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(target + start)),
                 "l"(__cvta_generic_to_global(source + start)), "r"(size), "r"(shared_address(barrier))
                 : "memory");
  }
}

__device__ inline void await(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}
#endif

/// A row has more than packs - 1 and at most `packs` packs for each thread: pack p of thread t is pack p * 512 + t of the row.
template <class T, int packs>
__global__ __launch_bounds__(threads, 1) void classify(T* logits, int64_t stride, int64_t rows, const RowLoss loss, const float* dloss,
                                                       double scale, int stages) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte buffers[];
  __shared__ uint64_t arrived[most_stages];
  __shared__ Mass slots[2][warp];
  const int thread = threadIdx.x;
  const int64_t classes = loss.classes;
  // Packs of a row, classes in the last where it is not full, and this thread's last pack: the only one that may lie beyond the row.
  const int count = static_cast<int>((classes + wide - 1) / wide), rest = static_cast<int>(classes % wide);
  const int last = (packs - 1) * threads + thread;
  const uint32_t row_bytes = static_cast<uint32_t>(count) * sizeof(uint4);
  constexpr uint32_t nothing = Pairs<T>::minus_infinity * 0x10001u;
  const auto fetch_row = [&](int64_t row, int stage) {
    if (row < rows) fetch(&arrived[stage], buffers + stage * row_bytes, reinterpret_cast<const std::byte*>(logits + row * stride), row_bytes);
  };
  if (thread == 0) {
    for (int stage = 0; stage < stages; ++stage) start_barrier(&arrived[stage]);
    asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" ::: "memory");
    for (int stage = 0; stage < stages; ++stage) fetch_row(blockIdx.x + static_cast<int64_t>(stage) * gridDim.x, stage);
  }
  __syncthreads();
  const float factor = static_cast<float>(scale * static_cast<double>(dloss[0]));

  int stage = 0;
  uint32_t parity = 0, turn = 0;
  int32_t next_target = loss.targets[blockIdx.x];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const int32_t target = loss.class_of(next_target);
    await(&arrived[stage], parity);
    const std::byte* const buffer = buffers + stage * row_bytes;
    uint32_t held[packs][words];
#pragma unroll
    for (int p = 0; p < packs; ++p) {
      uint4 pack = {nothing, nothing, nothing, nothing};
      if (p < packs - 1 || last < count) pack = reinterpret_cast<const uint4*>(buffer)[p * threads + thread];
      held[p][0] = pack.x, held[p][1] = pack.y, held[p][2] = pack.z, held[p][3] = pack.w;
    }
    // Beyond the last class lies what the rows are padded with.
    if (rest && last == count - 1)
#pragma unroll
      for (int j = 0; j < words; ++j) {
        if (2 * j >= rest) held[packs - 1][j] = nothing;
        else if (2 * j + 1 >= rest) held[packs - 1][j] = (held[packs - 1][j] & 0xffffu) | (nothing & 0xffff0000u);
      }
    const float logit_of_target = target < 0 ? 0.0f : to_float(reinterpret_cast<const T*>(buffer)[target]);

    uint32_t highest = nothing;
#pragma unroll
    for (int p = 0; p < packs; ++p)
#pragma unroll
      for (int j = 0; j < words; ++j) highest = larger<T>(highest, held[p][j]);
    Mass own = Mass::none();
    const float2 tops = Pairs<T>::floats(highest);
    own.top = fmaxf(tops.x, tops.y);
    const float own_shift = shift_of(own.top) * log2_of_e;
    float2 sums = {0.0f, 0.0f};
#pragma unroll
    for (int p = 0; p < packs; ++p)
#pragma unroll
      for (int j = 0; j < words; ++j) {
        const float2 x = Pairs<T>::floats(held[p][j]);
        sums.x += exp2_fast(fmaf(x.x, log2_of_e, -own_shift));
        sums.y += exp2_fast(fmaf(x.y, log2_of_e, -own_shift));
      }
    own.sum = sums.x + sums.y;
    const Mass mass = block_mass(own, slots[turn]);

    // The block has met: all have taken their part of this buffer, and it is free for a row to come.
    if (row + gridDim.x < rows) next_target = loss.targets[row + gridDim.x];
    if (thread == 0) {
      fetch_row(row + static_cast<int64_t>(stages) * gridDim.x, stage);
      loss.store(row, target, logit_of_target, mass);
    }

    // The compiler must not keep unpacked numbers from one pass to the other: they would not fit the registers.
#pragma unroll
    for (int p = 0; p < packs; ++p)
#pragma unroll
      for (int j = 0; j < words; ++j) asm volatile("" : "+r"(held[p][j]));
    uint4* const out = reinterpret_cast<uint4*>(logits + row * stride);
    if (target < 0) {
      for (int at = thread; at < count; at += threads) out[at] = uint4{0, 0, 0, 0};
    } else {
      const float shift = shift_of(mass.top), inverse = 1.0f / mass.sum, by = factor * inverse * lowering;
      const float lifted = fmaf(-shift, log2_of_e, lift);
#pragma unroll
      for (int p = 0; p < packs; ++p) {
        uint32_t gradient[words];
#pragma unroll
        for (int j = 0; j < words; ++j) {
          const float2 x = Pairs<T>::floats(held[p][j]);
          const float low = by * exp2_fast(fmaf(x.x, log2_of_e, lifted));
          const float high = by * exp2_fast(fmaf(x.y, log2_of_e, lifted));
          gradient[j] = rounded<T>(low, high);
        }
        if (p < packs - 1 || last < count) out[p * threads + thread] = uint4{gradient[0], gradient[1], gradient[2], gradient[3]};
      }
      // The thread that wrote the pack writes over one number of it.
      if (target / wide % threads == thread) {
        const float probability = exp2_fast((logit_of_target - shift) * log2_of_e) * inverse;
        logits[row * stride + target] = from_float<T>(factor * (probability - 1.0f));
      }
    }

    turn ^= 1;
    if (++stage == stages) stage = 0, parity ^= 1;
  }
#endif
}

template <class T, int packs>
void run(const Call& call, const RowLoss& loss, T* logits, int64_t stride, int64_t rows, const float* dloss, double scale, int stages,
         size_t shared) {
  const void* const kernel = reinterpret_cast<const void*>(classify<T, packs>);
  allow_shared(kernel, shared);
  const int64_t blocks = std::min<int64_t>(rows, call.device->multiprocessors);
  launch(classify<T, packs>, dim3(static_cast<unsigned>(blocks)), dim3(threads), shared, call.stream, logits, stride, rows, loss, dloss,
         scale, stages);
}

template <class T, int packs = 1>
void with_packs(int64_t needed, const Call& call, const RowLoss& loss, T* logits, int64_t stride, int64_t rows, const float* dloss,
                double scale, int stages, size_t shared) {
  if constexpr (packs < most_packs)
    if (needed > packs) return with_packs<T, packs + 1>(needed, call, loss, logits, stride, rows, dloss, scale, stages, shared);
  run<T, packs>(call, loss, logits, stride, rows, dloss, scale, stages, shared);
}

}  // namespace

bool enqueue_classifier(const Call& call, const RowLoss& loss, DType dtype, void* logits, int64_t stride, int64_t rows, const float* dloss,
                        double scale) {
  const int64_t count = (loss.classes + wide - 1) / wide;
  const size_t row_bytes = static_cast<size_t>(count) * sizeof(uint4);
  constexpr size_t fixed = 1024;
  if (call.device->major != 9 || (dtype != DType::bf16 && dtype != DType::f16)) return false;
  if (loss.classes < least_classes || count > int64_t{threads} * most_packs) return false;
  if (stride % wide != 0 || stride < count * wide || reinterpret_cast<uintptr_t>(logits) % 16 != 0) return false;
  if (call.device->shared_bytes < fixed + row_bytes) return false;
  const int stages = static_cast<int>(std::min<size_t>((call.device->shared_bytes - fixed) / row_bytes, most_stages));
  const int64_t packs = (count + threads - 1) / threads;
  const size_t shared = row_bytes * static_cast<size_t>(stages);
  if (dtype == DType::bf16) with_packs(packs, call, loss, static_cast<bf16*>(logits), stride, rows, dloss, scale, stages, shared);
  else with_packs(packs, call, loss, static_cast<f16*>(logits), stride, rows, dloss, scale, stages, shared);
  return true;
}
#endif

}  // namespace deeptroupe::gpu
