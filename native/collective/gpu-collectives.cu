// Collectives on device tensors. Legend: N ranks, r this rank, L elements of one rank's slice; the slice of rank r starts at r * L.
// Ranks exchange slices and each adds its own in rank order, ((base + x0) + x1) + ...: the bits of the CPU. Where there are peers to
// copy from, what moves is copied from their memory; else NCCL moves it.
#include "gpu-collectives.h"

#include <algorithm>

namespace deeptroupe::gpu {

namespace {

using abi::Opcode;

constexpr int threads = 256;
/// Blocks of a sum: enough to fill a device, so that each goes on to the next part.
constexpr int64_t most_blocks = 1056;

/// Added in T, and rounded to D in the end.
template <class S, class D, class T>
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
template <class T>
__device__ inline T plus(T a, float b) {
  return from_float<T>(to_float(a) + b);
}

template <class To, class From>
__device__ inline To converted(From x) {
  if constexpr (std::is_same_v<From, To>) return x;
  else return from_float<To>(to_float(x));
}

template <class S>
__device__ inline auto term(S x) {
  if constexpr (std::is_same_v<S, double>) return x;
  else return to_float(x);
}

/// `width` neighbours a turn; the last elements % width one by one.
template <class S, class D, class T, int width>
__global__ __launch_bounds__(threads) void add_in_rank_order(const Sum<S, D, T> sum) {
  const int64_t parts = sum.elements / width, step = static_cast<int64_t>(gridDim.x) * threads;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int first = sum.base ? 0 : 1;
  constexpr int narrow = 16 / sizeof(D) < width ? 16 / sizeof(D) : width;
  for (int64_t part = thread; part < parts; part += step) {
    T total[width];
    if (sum.base) {
#pragma unroll
      for (int i = 0; i < width; i += narrow) {
        const auto pack = *reinterpret_cast<const Pack<D, narrow>*>(sum.base + part * width + i);
#pragma unroll
        for (int j = 0; j < narrow; ++j) total[i + j] = converted<T>(pack.at[j]);
      }
    } else {
      const auto pack = *reinterpret_cast<const Pack<S, width>*>(sum.source(0) + part * width);
#pragma unroll
      for (int i = 0; i < width; ++i) total[i] = converted<T>(pack.at[i]);
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
      for (int j = 0; j < narrow; ++j) pack.at[j] = converted<D>(total[i + j]);
      *reinterpret_cast<Pack<D, narrow>*>(sum.target + part * width + i) = pack;
    }
  }
  for (int64_t i = parts * width + thread; i < sum.elements; i += step) {
    T total = sum.base ? converted<T>(sum.base[i]) : converted<T>(sum.source(0)[i]);
    for (int from = first; from < sum.ranks; ++from) total = plus(total, term(sum.source(from)[i]));
    sum.target[i] = converted<D>(total);
  }
}

template <class S, class D, class T>
void enqueue_sum(const Sum<S, D, T>& sum, Stream stream) {
  constexpr int width = 16 / sizeof(S);
  if (sum.elements == 0) return;
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool wide = aligned(sum.target) && aligned(sum.base) && aligned(sum.own) && aligned(sum.others) && sum.stride % width == 0;
  const int64_t parts = wide ? (sum.elements + width - 1) / width : sum.elements;
  const dim3 grid(static_cast<unsigned>(std::min((parts + threads - 1) / threads, most_blocks)));
  if (wide) launch(add_in_rank_order<S, D, T, width>, grid, dim3(threads), 0, stream, sum);
  else launch(add_in_rank_order<S, D, T, 1>, grid, dim3(threads), 0, stream, sum);
}

class Running {
 public:
  Running(const Call& call, NcclRank* nccl, Peers* peers)
      : call_(call), nccl_(nccl), peers_(peers), ranks_(call.ranks), rank_(call.rank), stream_(call.stream) {
    if (ranks_ > 1 && !nccl && !peers)
      throw Error("gpu: collective, expected a communicator of " + std::to_string(ranks_) + " ranks, got none");
  }

  bool run(Opcode opcode) {
    const bool enqueued = proceed(opcode);
    if (enqueued && peers_) peers_->part();
    return enqueued;
  }

 private:
  /// Bytes of a rank, at their address in this rank's memory.
  struct Piece {
    std::byte* data;
    int64_t bytes;
  };

  bool proceed(Opcode opcode) {
    switch (opcode) {
      case Opcode::reduce_scatter: return reduce_scatter();
      case Opcode::all_gather: return all_gather();
      case Opcode::all_reduce: return all_reduce();
      case Opcode::broadcast: return broadcast();
      case Opcode::all_to_all: return all_to_all();
      case Opcode::barrier: return barrier();
      default: throw KernelError("collective: opcode, expected a collective's, got number " + std::to_string(static_cast<int>(opcode)));
    }
  }

  bool reduce_scatter() {
    const auto& attributes = call_.attrs<abi::ReduceScatterAttributes>();
    const Tensor &source = call_.in(0), &shard = call_.out(0);
    const int64_t slice = source.elements() / ranks_, own = attributes.whole ? rank_ * slice : 0, slot = slot_of(slice, source);
    std::byte* const target = at(shard, own);
    const std::byte* const base = call_.has_in(1) ? at(call_.in(1), own) : nullptr;
    if (ranks_ == 1 && !base && shard.dtype == source.dtype) {
      copy(target, at(source, 0), slice * bytes_of(source));
      return true;
    }
    need_workspace((ranks_ - 1) * slot);
    return exchange([&](int, int to) { return piece(source, to * slice, slice); }, [&](int from) { return slot_from(from, slot); }, [&] {
      with_types(source.dtype, shard.dtype, [&]<class S, class D>(S, D, auto) {
        enqueue_sum(sum_of<S, D, D>(target, base, at(source, rank_ * slice), slot, slice), stream_);
      });
    });
  }

  bool all_gather() {
    const Tensor &shard = call_.in(0), &full = call_.out(0);
    const int64_t slice = full.elements() / ranks_;
    const bool whole = call_.attrs<abi::AllGatherAttributes>().whole;
    const auto given = [&](int from) { return piece(shard, whole ? from * slice : 0, slice); };
    if (nccl_) {
      nccl_->all_gather(given(rank_).data, full.data, given(rank_).bytes, stream_);
      return true;
    }
    return exchange([&](int from, int) { return given(from); }, [&](int from) { return at(full, from * slice); },
                    [&] { copy(at(full, rank_ * slice), given(rank_).data, given(rank_).bytes); });
  }

  /// Each rank sums its share of the elements; then every rank collects the shares.
  bool all_reduce() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    const int64_t count = x.elements(), slot = slot_of((count + ranks_ - 1) / ranks_, x), slice = slot / bytes_of(x);
    const auto share = [&](const Tensor& tensor, int rank) {
      const int64_t begin = std::min(count, rank * slice);
      return piece(tensor, begin, std::min(count, begin + slice) - begin);
    };
    need_workspace((ranks_ - 1) * slot);
    return exchange([&](int, int to) { return share(x, to); }, [&](int from) { return slot_from(from, slot); }, [&] {
             if (ranks_ == 1) return copy(at(y, 0), at(x, 0), count * bytes_of(x));
             with_types(x.dtype, x.dtype, [&]<class S, class D, class T>(S, D, T) {
               const Piece own = share(x, rank_);
               enqueue_sum(sum_of<S, D, T>(share(y, rank_).data, nullptr, own.data, slot, own.bytes / bytes_of(x)), stream_);
             });
           }) &&
           exchange([&](int from, int) { return share(y, from); }, [&](int from) { return share(y, from).data; }, [] {});
  }

  bool broadcast() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    const int root = static_cast<int>(call_.attrs<abi::BroadcastAttributes>().root);
    return exchange([&](int from, int) { return piece(x, 0, from == root ? x.elements() : 0); }, [&](int) { return at(y, 0); }, [&] {
      if (rank_ == root) copy(at(y, 0), at(x, 0), x.elements() * bytes_of(x));
    });
  }

  bool all_to_all() {
    const Tensor &x = call_.in(0), &y = call_.out(0);
    const int64_t slice = x.elements() / ranks_;
    return exchange([&](int, int to) { return piece(x, to * slice, slice); }, [&](int from) { return at(y, from * slice); },
                    [&] { copy(at(y, rank_ * slice), at(x, rank_ * slice), slice * bytes_of(x)); });
  }

  bool barrier() {
    if (peers_) return peers_->meet(stream_, [] {});
    if (ranks_ == 1) return true;
    need_workspace(ranks_);
    nccl_->all_gather(call_.workspace + rank_, call_.workspace, 1, stream_);
    return true;
  }

  static int64_t bytes_of(const Tensor& tensor) { return abi::dtype_bytes[static_cast<uint32_t>(tensor.dtype)]; }
  static std::byte* at(const Tensor& tensor, int64_t element) { return tensor.as<std::byte>() + element * bytes_of(tensor); }
  static Piece piece(const Tensor& tensor, int64_t begin, int64_t count) { return {at(tensor, begin), count * bytes_of(tensor)}; }

  /// Of the workspace, a place for each of the others' slices, on a border of 256 bytes.
  static int64_t slot_of(int64_t slice, const Tensor& tensor) { return (slice * bytes_of(tensor) + 255) / 256 * 256; }
  std::byte* slot_from(int from, int64_t slot) const { return call_.workspace + (from < rank_ ? from : from - 1) * slot; }

  template <class S, class D, class T>
  Sum<S, D, T> sum_of(std::byte* target, const std::byte* base, const std::byte* own, int64_t slot, int64_t elements) const {
    return {reinterpret_cast<D*>(target),
            reinterpret_cast<const D*>(base),
            reinterpret_cast<const S*>(own),
            reinterpret_cast<const S*>(call_.workspace),
            slot / static_cast<int64_t>(sizeof(S)),
            elements,
            rank_,
            ranks_};
  }

  void need_workspace(int64_t bytes) const {
    if (static_cast<int64_t>(call_.workspace_bytes) >= bytes) return;
    throw KernelError("collective: workspace, expected " + std::to_string(bytes) + " bytes, got " + std::to_string(call_.workspace_bytes));
  }

  void copy(std::byte* target, const std::byte* source, int64_t bytes) const {
    if (target == source || bytes == 0) return;
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_), "copy");
  }

  /// What every other rank j has for this one, give(j, r), to place(j). `own` enqueues what this rank does alone: it may read what has come, and
  /// writes nothing that the others read.
  template <class G, class P, class O>
  bool exchange(G&& give, P&& place, O&& own) {
    if (peers_) return fetch(give, place, own);
    if (ranks_ > 1) swap(give, place);
    own();
    return true;
  }

  template <class G, class P, class O>
  bool fetch(G&& give, P&& place, O&& own) {
    const int before = met_;
    met_ += 2;
    if (peers_->passed() == before) {
      if (!peers_->meet(stream_, [] {})) return false;
      // Each begins with another, so that no link is everyone's at once.
      for (int i = 1; i < ranks_; ++i) {
        const int from = (rank_ + i) % ranks_;
        const Piece given = give(from, rank_);
        if (given.bytes > 0) copy(place(from), peers_->address(from, given.data), given.bytes);
      }
    }
    return peers_->passed() > before + 1 || peers_->meet(stream_, own);
  }

  template <class G, class P>
  void swap(G&& give, P&& place) {
    nccl_->group_start();
    try {
      for (int i = 1; i < ranks_; ++i) {
        const int to = (rank_ + i) % ranks_, from = (rank_ + ranks_ - i) % ranks_;
        const Piece sent = give(rank_, to), received = give(from, rank_);
        if (sent.bytes > 0) nccl_->send(sent.data, sent.bytes, to, stream_);
        if (received.bytes > 0) nccl_->receive(place(from), received.bytes, from, stream_);
      }
    } catch (...) {
      try {
        nccl_->group_end();
      } catch (const Error&) {
      }
      throw;
    }
    nccl_->group_end();
  }

  /// f(source, target, what all_reduce sums in).
  template <class F>
  static void with_types(DType source, DType shard, F&& f) {
    if (source == DType::f64) return f(double{}, double{}, double{});
    with_float(source, [&]<class S>(S) {
      if (shard == source) f(S{}, S{}, float{});
      else f(S{}, float{}, float{});
    });
  }

  const Call& call_;
  NcclRank* const nccl_;
  Peers* const peers_;
  const int ranks_, rank_;
  const Stream stream_;
  /// Meetings of the exchanges so far, whether they are still to come or not.
  int met_ = 0;
};

}  // namespace

bool enqueue_collective(Opcode opcode, const Call& call, NcclRank* nccl, Peers* peers) { return Running(call, nccl, peers).run(opcode); }

}  // namespace deeptroupe::gpu
