// Collectives on device tensors. Legend: N ranks, r this rank, L elements of one rank's slice; the slice of rank r starts at r * L.
// Where a base is added onto, or sources of 16 bits are summed in f32, ranks exchange slices and each adds its own in rank order,
// ((base + x0) + x1) + ..., rounded to the shard's dtype each time: the bits of the CPU. A plain sum is NCCL's: with two ranks it
// rounds once, which gives the same bits; with more, its order is the ring's, the same in every run on the same machine. Where there
// are peers to copy from, what only moves is copied from their memory; else NCCL moves it.
#include "gpu-collectives.h"

#include <algorithm>

namespace deeptroupe::gpu {

namespace {

using abi::Opcode;

constexpr int threads = 256;
/// Blocks of a sum: enough to fill a device, so that each goes on to the next part.
constexpr int64_t most_blocks = 1056;

template <class S, class D>
struct Sum {
  D* target;
  const D* base;
  /// This rank's slice, and those of the others in rank order, `stride` elements apart.
  const S* own;
  const S* others;
  int64_t stride, elements;
  int rank, ranks;

  __device__ const S* source(int from) const { return from == rank ? own : others + (from < rank ? from : from - 1) * stride; }
};

__device__ inline double plus(double a, double b) { return a + b; }
template <class D>
__device__ inline D plus(D a, float b) {
  return from_float<D>(to_float(a) + b);
}

template <class S, class D>
__device__ inline D first_of(S x) {
  if constexpr (std::is_same_v<S, D>) return x;
  else return from_float<D>(to_float(x));
}

template <class S>
__device__ inline auto term(S x) {
  if constexpr (std::is_same_v<S, double>) return x;
  else return to_float(x);
}

/// `width` neighbours a turn; the last elements % width one by one.
template <class S, class D, int width>
__global__ __launch_bounds__(threads) void add_in_rank_order(const Sum<S, D> sum) {
  const int64_t parts = sum.elements / width, step = static_cast<int64_t>(gridDim.x) * threads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int first = sum.base ? 0 : 1;
  constexpr int narrow = 16 / sizeof(D) < width ? 16 / sizeof(D) : width;
  for (int64_t part = thread; part < parts; part += step) {
    D total[width];
    if (sum.base) {
#pragma unroll
      for (int i = 0; i < width; i += narrow) {
        const auto pack = *reinterpret_cast<const Pack<D, narrow>*>(sum.base + part * width + i);
#pragma unroll
        for (int j = 0; j < narrow; ++j) total[i + j] = pack.at[j];
      }
    } else {
      const auto pack = *reinterpret_cast<const Pack<S, width>*>(sum.source(0) + part * width);
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] = first_of<S, D>(pack.at[i]);
    }
    for (int from = first; from < sum.ranks; ++from) {
      const auto pack = *reinterpret_cast<const Pack<S, width>*>(sum.source(from) + part * width);
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] = plus(total[i], term(pack.at[i]));
    }
#pragma unroll
    for (int i = 0; i < width; i += narrow) {
      Pack<D, narrow> pack;
#pragma unroll
      for (int j = 0; j < narrow; ++j) pack.at[j] = total[i + j];
      *reinterpret_cast<Pack<D, narrow>*>(sum.target + part * width + i) = pack;
    }
  }
  for (int64_t i = parts * width + thread; i < sum.elements; i += step) {
    D total = sum.base ? sum.base[i] : first_of<S, D>(sum.source(0)[i]);
    for (int from = first; from < sum.ranks; ++from) total = plus(total, term(sum.source(from)[i]));
    sum.target[i] = total;
  }
}

template <class S, class D>
void enqueue_sum(const Sum<S, D>& sum, Stream stream) {
  constexpr int width = 16 / sizeof(S);
  if (sum.elements == 0) return;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool wide = aligned(sum.target) && aligned(sum.base) && aligned(sum.own) && aligned(sum.others) && sum.stride % width == 0;
  const int64_t parts = wide ? (sum.elements + width - 1) / width : sum.elements;
  const dim3 grid(static_cast<unsigned>(std::min((parts + threads - 1) / threads, most_blocks)));
  if (wide) launch(add_in_rank_order<S, D, width>, grid, dim3(threads), 0, stream, sum);
  else launch(add_in_rank_order<S, D, 1>, grid, dim3(threads), 0, stream, sum);
}

class Running {
 public:
  Running(const Call& call, NcclRank* nccl, Peers* peers)
      : call_(call), nccl_(nccl), peers_(peers), ranks_(call.ranks), rank_(call.rank), stream_(call.stream) {
    if (ranks_ > 1 && !nccl) throw Error("gpu: collective, expected a communicator of " + std::to_string(ranks_) + " ranks, got none");
  }

  void reduce_scatter() {
    const auto& attributes = call_.attrs<abi::ReduceScatterAttributes>();
    const Tensor &source = call_.in(0), &shard = call_.out(0);
    const int64_t slice = source.elements() / ranks_, own = attributes.whole ? rank_ * slice : 0;
    std::byte* const target = at(shard, own);
    const std::byte* const base = call_.has_in(1) ? at(call_.in(1), own) : nullptr;
    const bool plain = !base && shard.dtype == source.dtype;
    if (plain && ranks_ == 1) return copy(target, at(source, 0), slice * bytes_of(source));
    if (plain) return nccl_->reduce_scatter(source.data, target, slice, source.dtype, stream_);
    // Slots of the others, each on a border of 256 bytes.
    const int64_t slot = (slice * bytes_of(source) + 255) / 256 * 256;
    need_workspace((ranks_ - 1) * slot);
    exchange(source, slice, [&](int from) { return call_.workspace + (from < rank_ ? from : from - 1) * slot; }, [&] {
      with_types(source.dtype, shard.dtype, [&]<class S, class D>(S, D) {
        enqueue_sum(Sum<S, D>{reinterpret_cast<D*>(target), reinterpret_cast<const D*>(base),
                              reinterpret_cast<const S*>(at(source, rank_ * slice)), reinterpret_cast<const S*>(call_.workspace),
                              slot / bytes_of(source), slice, rank_, ranks_},
                    stream_);
      });
    });
  }

  void all_gather() {
    const Tensor &shard = call_.in(0), &full = call_.out(0);
    const int64_t slice = full.elements() / ranks_, bytes = slice * bytes_of(full);
    const bool whole = call_.attrs<abi::AllGatherAttributes>().whole;
    const auto source = [&](int rank) { return at(shard, whole ? rank * slice : 0); };
    const auto own = [&] { copy(at(full, rank_ * slice), source(rank_), bytes); };
    if (ranks_ > 1 && !peers_) return nccl_->all_gather(source(rank_), full.data, slice, full.dtype, stream_);
    fetch(bytes, source, [&](int from) { return at(full, from * slice); }, own);
  }

  void all_reduce() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    if (ranks_ == 1) return copy(at(y, 0), at(x, 0), x.elements() * bytes_of(x));
    nccl_->all_reduce(x.data, y.data, x.elements(), x.dtype, Reduction::sum, stream_);
  }

  void broadcast() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    if (ranks_ == 1) return copy(at(y, 0), at(x, 0), x.elements() * bytes_of(x));
    nccl_->broadcast(x.data, y.data, x.elements(), x.dtype, static_cast<int>(call_.attrs<abi::BroadcastAttributes>().root), stream_);
  }

  void all_to_all() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    const int64_t slice = x.elements() / ranks_;
    exchange(x, slice, [&](int from) { return at(y, from * slice); },
             [&] { copy(at(y, rank_ * slice), at(x, rank_ * slice), slice * bytes_of(x)); });
  }

  void barrier() {
    if (ranks_ == 1) return;
    need_workspace(1);
    nccl_->all_reduce(call_.workspace, call_.workspace, 1, DType::u8, Reduction::max, stream_);
  }

 private:
  static int64_t bytes_of(const Tensor& tensor) { return abi::dtype_bytes[static_cast<uint32_t>(tensor.dtype)]; }
  static std::byte* at(const Tensor& tensor, int64_t element) { return tensor.as<std::byte>() + element * bytes_of(tensor); }

  void need_workspace(int64_t bytes) const {
    if (static_cast<int64_t>(call_.workspace_bytes) >= bytes) return;
    throw KernelError("collective: workspace, expected " + std::to_string(bytes) + " bytes, got " + std::to_string(call_.workspace_bytes));
  }

  void copy(std::byte* target, const std::byte* source, int64_t bytes) const {
    if (target == source || bytes == 0) return;
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_), "copy");
  }

  /// `bytes` of what rank j has at what `source(j)` is here to place(j), for every other rank j; `own` enqueues what this rank has to do
  /// alone, which writes nothing that others read.
  template <class S, class P, class O>
  void fetch(int64_t bytes, S&& source, P&& place, O&& own) const {
    if (ranks_ == 1 || bytes == 0) return own();
    peers_->arrive(stream_);
    peers_->await(stream_);
    // Each begins with another, so that no link is everyone's at once.
    for (int i = 1; i < ranks_; ++i) {
      const int from = (rank_ + i) % ranks_;
      copy(place(from), peers_->address(from, source(from)), bytes);
    }
    peers_->arrive(stream_);
    own();
    peers_->await(stream_);
  }

  /// Slice r of rank j's source to place(j), for every other rank j, and what `own` enqueues behind it.
  template <class P, class O>
  void exchange(const Tensor& source, int64_t slice, P&& place, O&& own) const {
    if (ranks_ == 1 || peers_) return fetch(slice * bytes_of(source), [&](int) { return at(source, rank_ * slice); }, place, own);
    nccl_->group_start();
    try {
      for (int i = 1; i < ranks_; ++i) {
        const int to = (rank_ + i) % ranks_, from = (rank_ + ranks_ - i) % ranks_;
        nccl_->send(at(source, to * slice), slice, source.dtype, to, stream_);
        nccl_->receive(place(from), slice, source.dtype, from, stream_);
      }
    } catch (...) {
      try {
        nccl_->group_end();
      } catch (const Error&) {
      }
      throw;
    }
    nccl_->group_end();
    own();
  }

  template <class F>
  static void with_types(DType source, DType shard, F&& f) {
    if (source == DType::f64) return f(double{}, double{});
    with_float(source, [&]<class S>(S) {
      if (shard == source) f(S{}, S{});
      else f(S{}, float{});
    });
  }

  const Call& call_;
  NcclRank* const nccl_;
  Peers* const peers_;
  const int ranks_, rank_;
  const Stream stream_;
};

}  // namespace

void enqueue_collective(Opcode opcode, const Call& call, NcclRank* nccl, Peers* peers) {
  Running running(call, nccl, peers);
  switch (opcode) {
    case Opcode::reduce_scatter: return running.reduce_scatter();
    case Opcode::all_gather: return running.all_gather();
    case Opcode::all_reduce: return running.all_reduce();
    case Opcode::broadcast: return running.broadcast();
    case Opcode::all_to_all: return running.all_to_all();
    case Opcode::barrier: return running.barrier();
    default: throw KernelError("collective: opcode, expected a collective's, got number " + std::to_string(static_cast<int>(opcode)));
  }
}

}  // namespace deeptroupe::gpu
