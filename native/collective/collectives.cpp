// The collectives. Legend: N ranks, r this rank, L elements of one rank's slice; the slice of rank r starts at r * L.
// A rank writes only its own memory, and only where no peer reads between the same two barriers.
#include "collectives.h"

#include <algorithm>
#include <cstring>

namespace deeptroupe {
namespace {

using abi::Opcode;

/// Bytes that one task of the pool copies.
constexpr int64_t task_bytes = 256 << 10;

struct Layout {
  int64_t slice = 0;
  /// Elements from the operand's start to this rank's slice of it; zero where the operand is the slice itself.
  int64_t own = 0;
};

Layout layout_of(const CollectiveCall& call, int rank, int ranks) {
  switch (call.opcode) {
    case Opcode::reduce_scatter: {
      const int64_t slice = call.input->elements / ranks;
      return {slice, static_cast<const abi::ReduceScatterAttributes*>(call.attributes)->whole ? rank * slice : 0};
    }
    case Opcode::all_gather: {
      const int64_t slice = call.output->elements / ranks;
      return {slice, static_cast<const abi::AllGatherAttributes*>(call.attributes)->whole ? rank * slice : 0};
    }
    case Opcode::all_to_all:
      return {call.input->elements / ranks, 0};
    default:
      return {};
  }
}

int64_t attribute_ranks(const CollectiveCall& call) { return *static_cast<const int64_t*>(call.attributes); }

int64_t root_of(const CollectiveCall& call) {
  return call.opcode == Opcode::broadcast ? static_cast<const abi::BroadcastAttributes*>(call.attributes)->root : 0;
}

void copy_bytes(Pool& pool, std::byte* target, const std::byte* source, uint64_t bytes) {
  if (target == source || bytes == 0) return;
  pool.each((bytes + task_bytes - 1) / task_bytes, [&](int64_t task, int) {
    const uint64_t start = task * task_bytes;
    std::memcpy(target + start, source + start, std::min<uint64_t>(task_bytes, bytes - start));
  });
}

class Running {
 public:
  Running(const CollectiveCall& call, const CollectiveRank& me)
      : call_(call), me_(me), ranks_(me.communicator.ranks()), layout_(layout_of(call, me.rank, ranks_)) {}

  void run() {
    me_.communicator.agree(me_.rank, announcement_of(call_));
    switch (call_.opcode) {
      case Opcode::reduce_scatter: return reduce_scatter();
      case Opcode::all_gather: return all_gather();
      case Opcode::all_reduce: return all_reduce();
      case Opcode::broadcast: return broadcast();
      case Opcode::all_to_all: return all_to_all();
      default: return;
    }
  }

 private:
  std::byte* at(int rank, const Place& place, int64_t element) const {
    std::byte* base = me_.memory[rank][place.arena].base();
    if (!base) {
      me_.communicator.abort("collective: arena " + std::string(abi::arena_names[place.arena]) + " of rank " +
                             std::to_string(rank) + ", expected it to be allocated, got nothing");
      throw Aborted();
    }
    return base + place.offset + element * abi::dtype_bytes[place.dtype];
  }
  std::byte* mine(const Place& place, int64_t element = 0) const { return at(me_.rank, place, element); }

  void sum_slice(std::byte* target, const std::byte* base, int64_t first, int64_t count) {
    if (count == 0) return;
    std::vector<const void*> sources;
    for (int rank = 0; rank < ranks_; ++rank) sources.push_back(at(rank, *call_.input, first));
    me_.kernels.sum({static_cast<DType>(call_.input->dtype), static_cast<DType>(call_.output->dtype), target, base, sources.data(),
                     ranks_, count, call_.opcode == Opcode::all_reduce, &me_.pool});
  }

  void copy(std::byte* target, const std::byte* source, int64_t count) {
    copy_bytes(me_.pool, target, source, count * abi::dtype_bytes[call_.output->dtype]);
  }

  void reduce_scatter() {
    sum_slice(mine(*call_.output, layout_.own), call_.base ? mine(*call_.base, layout_.own) : nullptr,
              me_.rank * layout_.slice, layout_.slice);
    me_.communicator.barrier();
  }

  void all_gather() {
    for (int i = 0; i < ranks_; ++i) {
      // Each rank starts at itself, so that not all read the same memory at once.
      const int from = (me_.rank + i) % ranks_;
      const int64_t own = layout_of(call_, from, ranks_).own;
      copy(mine(*call_.output, from * layout_.slice), at(from, *call_.input, own), layout_.slice);
    }
    me_.communicator.barrier();
  }

  /// Each rank sums its share of the elements; then every rank collects the shares.
  void all_reduce() {
    const int64_t count = call_.input->elements;
    const auto border = [&](int rank) { return count * rank / ranks_; };
    const int64_t first = border(me_.rank);
    sum_slice(mine(*call_.output, first), nullptr, first, border(me_.rank + 1) - first);
    me_.communicator.barrier();
    for (int i = 1; i < ranks_; ++i) {
      const int from = (me_.rank + i) % ranks_;
      const int64_t start = border(from);
      copy(mine(*call_.output, start), at(from, *call_.output, start), border(from + 1) - start);
    }
    me_.communicator.barrier();
  }

  void broadcast() {
    copy(mine(*call_.output), at(static_cast<int>(root_of(call_)), *call_.input, 0), call_.input->elements);
    me_.communicator.barrier();
  }

  void all_to_all() {
    for (int i = 0; i < ranks_; ++i) {
      const int from = (me_.rank + i) % ranks_;
      copy(mine(*call_.output, from * layout_.slice), at(from, *call_.input, me_.rank * layout_.slice), layout_.slice);
    }
    me_.communicator.barrier();
  }

  const CollectiveCall& call_;
  const CollectiveRank& me_;
  const int ranks_;
  const Layout layout_;
};

std::string number(int64_t n) { return std::to_string(n); }

}  // namespace

bool is_collective(Opcode opcode) {
  switch (opcode) {
    case Opcode::reduce_scatter:
    case Opcode::all_gather:
    case Opcode::all_reduce:
    case Opcode::broadcast:
    case Opcode::all_to_all:
    case Opcode::barrier:
      return true;
    default:
      return false;
  }
}

Announcement announcement_of(const CollectiveCall& call) {
  const Place* size = call.input;
  return {call.opcode, size ? size->dtype : 0, size ? size->elements : 0, root_of(call)};
}

std::string check_collective(const CollectiveCall& call, int ranks) {
  if (attribute_ranks(call) != ranks)
    return "attribute ranks, expected " + number(ranks) + ", got " + number(attribute_ranks(call));
  if (call.opcode == Opcode::barrier) return {};
  const Place &in = *call.input, &out = *call.output;
  const bool sums = call.opcode == Opcode::reduce_scatter || call.opcode == Opcode::all_reduce;
  const DType dtype = static_cast<DType>(in.dtype);
  if (sums && (dtype == DType::i32 || dtype == DType::u8))
    return std::string("dtype, expected a float, got ") + abi::dtype_names[in.dtype];
  const bool wide = call.opcode == Opcode::reduce_scatter &&
                    static_cast<const abi::ReduceScatterAttributes*>(call.attributes)->wide && dtype != DType::f64;
  const uint32_t result = wide ? static_cast<uint32_t>(DType::f32) : in.dtype;
  if (out.dtype != result)
    return std::string("dtype of the output, expected ") +
        abi::dtype_names[result] + ", got " + abi::dtype_names[out.dtype];
  const int64_t all = call.opcode == Opcode::all_gather ? out.elements : in.elements;
  const bool sliced = call.opcode != Opcode::all_reduce && call.opcode != Opcode::broadcast;
  if (sliced && all % ranks != 0) return "elements, expected a multiple of " + number(ranks) + ", got " + number(all);

  const int64_t slice = layout_of(call, 0, ranks).slice;
  if (call.opcode == Opcode::reduce_scatter) {
    const bool whole = static_cast<const abi::ReduceScatterAttributes*>(call.attributes)->whole != 0;
    const int64_t expected = whole ? all : slice;
    if (out.elements != expected)
      return "elements of shard, expected " + number(expected) + ", got " + number(out.elements);
    if (call.base && call.base->elements != expected)
      return "elements of base, expected " + number(expected) + ", got " + number(call.base->elements);
    if (call.base && call.base->dtype != result)
      return std::string("dtype of base, expected ") +
          abi::dtype_names[result] + ", got " + abi::dtype_names[call.base->dtype];
  } else if (call.opcode == Opcode::all_gather) {
    const bool whole = static_cast<const abi::AllGatherAttributes*>(call.attributes)->whole != 0;
    const int64_t expected = whole ? all : slice;
    if (in.elements != expected)
      return "elements of shard, expected " + number(expected) + ", got " + number(in.elements);
  } else {
    if (out.elements != in.elements)
      return "elements of the output, expected " + number(in.elements) + ", got " + number(out.elements);
    const int64_t root = root_of(call);
    if (root < 0 || root >= ranks)
      return "attribute root, expected 0 to " + number(ranks - 1) + ", got " + number(root);
  }
  return {};
}

void run_collective(const CollectiveCall& call, const CollectiveRank& me) { Running(call, me).run(); }

}  // namespace deeptroupe
