// Which instructions touch the same bytes, and what has to wait therefore.
#include "schedule.h"

#include <algorithm>
#include <utility>

namespace deeptroupe {
namespace {

constexpr auto io_arena = static_cast<uint32_t>(abi::Arena::io);
constexpr auto compute = static_cast<size_t>(Lane::compute), communication = static_cast<size_t>(Lane::communication);

Span span_of(const ProgramTensor& tensor) {
  return {tensor.place.arena, tensor.place.offset, tensor.place.offset + tensor.place.bytes()};
}

Touched touched_by(const ProgramInstruction& instruction) {
  Touched touched;
  for (const ProgramTensor* input : instruction.inputs)
    if (input) touched.read.push_back(span_of(*input));
  for (const ProgramTensor* output : instruction.outputs)
    if (output) touched.written.push_back(span_of(*output));
  if (instruction.workspace) touched.written.push_back(span_of(*instruction.workspace));
  touched.everything = instruction.op->opcode == abi::Opcode::barrier;
  return touched;
}

bool meet(const std::vector<Span>& a, const std::vector<Span>& b) {
  for (const Span& x : a)
    for (const Span& y : b)
      if (x.arena == y.arena && x.begin < y.end && y.begin < x.end) return true;
  return false;
}

bool conflict(const Touched& a, const Touched& b) {
  return a.everything || b.everything || meet(a.written, b.read) || meet(a.written, b.written) || meet(a.read, b.written);
}

bool writes_io(const Touched& touched) {
  return touched.everything || std::ranges::any_of(touched.written, [](const Span& span) { return span.arena == io_arena; });
}

void add_range(std::vector<IoRange>& ranges, const Span& span) {
  if (span.begin == span.end) return;
  IoRange merged{span.begin, span.end - span.begin};
  std::erase_if(ranges, [&](const IoRange& range) {
    if (range.offset > merged.offset + merged.bytes || merged.offset > range.offset + range.bytes) return false;
    const uint64_t end = std::max(range.offset + range.bytes, merged.offset + merged.bytes);
    merged.offset = std::min(range.offset, merged.offset);
    merged.bytes = end - merged.offset;
    return true;
  });
  ranges.insert(std::ranges::upper_bound(ranges, merged.offset, {}, &IoRange::offset), merged);
}

bool covered(const std::vector<IoRange>& ranges, const Span& span) {
  if (span.begin == span.end) return true;
  return std::ranges::any_of(ranges, [&](const IoRange& range) {
    return range.offset <= span.begin && span.end <= range.offset + range.bytes;
  });
}

Lane lane_of(const ProgramInstruction& instruction, const Places& places) {
  if (instruction.collective && places.several) return Lane::communication;
  bool of_host = false, of_device = false, makes_host = false;
  const auto look = [&](const ProgramTensor* tensor, bool output) {
    if (!tensor) return;
    const bool host = places.host_arenas >> tensor->place.arena & 1;
    (host ? of_host : of_device) = true;
    makes_host |= host && output;
  };
  for (const ProgramTensor* input : instruction.inputs) look(input, false);
  for (const ProgramTensor* output : instruction.outputs) look(output, true);
  if (!of_host) return Lane::compute;
  if (!of_device) return Lane::host;
  if (instruction.op->opcode != abi::Opcode::copy)
    throw ProgramError(std::string("program: operands of ") + instruction.op->name +
                       ", expected all on the host or all on the device, got both");
  return makes_host ? Lane::download : Lane::upload;
}

class Scheduler {
 public:
  Scheduler(const Program& program, const Places& places, const std::vector<const Tail*>& tails, Schedule& schedule)
      : program_(program), schedule_(schedule), count_(program.instructions.size()), clocks_(count_), waits_(count_, no_lane),
        begins_(count_), follows_start_(count_), part_of_(count_) {
    for (const ProgramInstruction& instruction : program.instructions) {
      touched_.push_back(touched_by(instruction));
      lanes_.push_back(lane_of(instruction, places));
    }
    find_borders(tails);
  }

  void run() {
    find_waits();
    std::vector<bool> awaited(count_);
    for (const ByLane& waits : waits_)
      for (const int32_t i : waits)
        if (i >= 0) awaited[i] = true;
    std::vector<Part>& parts = schedule_.parts;
    // Where the last part of `compute` begins, and the one before it.
    uint32_t last = 0, before = 0;
    for (size_t i = 0; i < count_; ++i) {
      const uint32_t at = static_cast<uint32_t>(i);
      const Lane lane = lanes_[i];
      const bool joins = lane == Lane::compute && !begins_[i] && !parts.empty() && parts.back().lane == lane &&
                         !parts.back().awaited && (waits_[i] == no_lane || waits_early(i, before));
      if (joins) {
        if (const int32_t sent = waits_[i][communication]; sent >= 0)
          parts.back().waits[communication] = std::max(parts.back().waits[communication], static_cast<int32_t>(part_of_[sent]));
      } else {
        if (lane == Lane::compute) before = std::exchange(last, at);
        Part& part = parts.emplace_back(Part{at, at + 1, lane});
        for (size_t other = 0; other < lane_count; ++other)
          if (waits_[i][other] >= 0) part.waits[other] = static_cast<int32_t>(part_of_[waits_[i][other]]);
        part.after_start = follows_start_[i];
      }
      parts.back().end = at + 1;
      parts.back().awaited = awaited[i];
      part_of_[i] = static_cast<uint32_t>(parts.size() - 1);
      schedule_.last[static_cast<size_t>(lane)] = static_cast<int32_t>(part_of_[i]);
    }
    find_end();
  }

 private:
  /// Of a lane that knows nothing of another in this run, and of one that knows what the other did before it.
  static constexpr int32_t nothing = -2, before_all = -1;
  /// By lane, the last instruction that is known to be done.
  using Clock = ByLane;

  /// Gathers come faster than what reads them is done: what needs the n-th waits for as many more, so that few borders do.
  void find_borders(const std::vector<const Tail*>& tails) {
    for (const Tail* tail : tails) {
      const bool gathers = std::ranges::all_of(*tail, [](const TailPart& part) { return part.lane == Lane::communication; });
      ByLane met = no_lane;
      for (size_t i = 0; i < count_; ++i) {
        if (lanes_[i] != Lane::compute) continue;
        for (size_t n = 0; n < tail->size(); ++n) {
          const TailPart& part = (*tail)[n];
          int32_t& last = met[static_cast<size_t>(part.lane)];
          const int32_t number = static_cast<int32_t>(part.part);
          if (number <= last || !conflict(part.touched, touched_[i])) continue;
          last = gathers ? static_cast<int32_t>((*tail)[std::min(2 * n + 1, tail->size() - 1)].part) : number;
          begins_[i] = true;
        }
      }
    }
  }

  /// An instruction of `compute` that waits for a collective sent before the part before its own began: its part can wait from its
  /// beginning, for that is long done.
  bool waits_early(size_t i, uint32_t before) const {
    ByLane others = waits_[i];
    const int32_t sent = std::exchange(others[communication], -1);
    return others == no_lane && sent < static_cast<int32_t>(before);
  }

  /// Whether f holds for a collective that follows this one at once. Such wait together, for each place where one waits interrupts `compute`.
  template <class F>
  bool any_together(size_t i, F&& f) const {
    if (lanes_[i] != Lane::communication) return false;
    for (size_t k = i + 1; k < count_ && lanes_[k] == Lane::communication; ++k)
      if (f(k)) return true;
    return false;
  }

  /// For each instruction the last one of each other lane that it must wait for, where its own lane does not know it done.
  void find_waits() {
    for (size_t lane = 0; lane < lane_count; ++lane) {
      known_[lane].fill(nothing);
      known_[lane][lane] = before_all;
    }
    std::array<std::vector<int32_t>, lane_count> of_lane;
    for (size_t i = 0; i < count_; ++i) {
      const size_t own = static_cast<size_t>(lanes_[i]);
      Clock& known = known_[own];
      std::vector<std::pair<int32_t, size_t>> needed;
      for (size_t other = 0; other < lane_count; ++other) {
        if (other == own) continue;
        const std::vector<int32_t>& earlier = of_lane[other];
        for (size_t j = earlier.size(); j-- > 0 && earlier[j] > known[other];) {
          const auto conflicts = [&](size_t k) { return conflict(touched_[k], touched_[earlier[j]]); };
          if (!conflicts(i) && !(other == compute && any_together(i, conflicts))) continue;
          needed.emplace_back(earlier[j], other);
          break;
        }
      }
      // What waits for a later one may know of the earlier ones by that.
      std::ranges::sort(needed, std::greater{});
      for (const auto& [j, other] : needed) {
        if (j <= known[other]) continue;
        waits_[i][other] = j;
        for (size_t lane = 0; lane < lane_count; ++lane) known[lane] = std::max(known[lane], clocks_[j][lane]);
      }
      if (known[compute] == nothing) {
        follows_start_[i] = true;
        known[compute] = before_all;
      }
      known[own] = static_cast<int32_t>(i);
      clocks_[i] = known;
      of_lane[own].push_back(static_cast<int32_t>(i));
    }
  }

  void find_end() {
    std::vector<Part>& parts = schedule_.parts;
    schedule_.answer = static_cast<uint32_t>(parts.size());
    const auto touched = [&](size_t part) -> const Touched& { return touched_[parts[part].begin]; };
    while (schedule_.answer > 0) {
      const size_t part = schedule_.answer - 1;
      if (parts[part].lane == Lane::compute || writes_io(touched(part))) break;
      --schedule_.answer;
    }
    Clock known = known_[compute];
    for (size_t i = 0; i < count_; ++i) {
      const size_t lane = static_cast<size_t>(lanes_[i]);
      if (lane == compute || !writes_io(touched_[i]) || static_cast<int32_t>(i) <= known[lane]) continue;
      schedule_.answer_waits[lane] = static_cast<int32_t>(part_of_[i]);
      parts[part_of_[i]].awaited = true;
    }
    for (size_t lane = 0; lane < lane_count; ++lane)
      if (const int32_t part = schedule_.answer_waits[lane]; part >= 0)
        for (size_t other = 0; other < lane_count; ++other)
          known[other] = std::max(known[other], clocks_[parts[part].begin][other]);
    for (uint32_t part = 0; part < parts.size(); ++part) {
      const size_t lane = static_cast<size_t>(parts[part].lane);
      if (lane == compute || static_cast<int32_t>(parts[part].begin) <= known[lane]) continue;
      parts[part].awaited = true;
      schedule_.tail.push_back({part, parts[part].lane, touched(part)});
    }
  }

  const Program& program_;
  Schedule& schedule_;
  const size_t count_;
  std::vector<Touched> touched_;
  std::vector<Lane> lanes_;
  /// What each lane knows now, and what was known when an instruction was done.
  std::array<Clock, lane_count> known_;
  std::vector<Clock> clocks_;
  std::vector<ByLane> waits_;
  std::vector<bool> begins_, follows_start_;
  std::vector<uint32_t> part_of_;
};

}  // namespace

IoUse io_of(const Program& program) {
  IoUse use;
  for (const ProgramInstruction& instruction : program.instructions) {
    const Touched touched = touched_by(instruction);
    const auto read = [&](const Span& span) {
      if (span.arena == io_arena && !covered(use.written, span)) add_range(use.read, span);
    };
    for (const Span& span : touched.read) read(span);
    for (const Span& span : touched.written) {
      // Of what a collective writes it may leave the slices of other ranks as they are.
      if (instruction.collective) read(span);
      if (span.arena == io_arena) add_range(use.written, span);
    }
  }
  return use;
}

bool Schedule::starts() const { return std::ranges::any_of(parts, &Part::after_start); }

Schedule schedule_of(const Program& program, const Places& places, const std::vector<const Tail*>& tails) {
  Schedule schedule;
  Scheduler(program, places, tails, schedule).run();
  return schedule;
}

Crossing crossing_of(const Tail& tail, const Program& program, const Schedule& schedule) {
  Crossing crossing;
  /// By lane of the later run, what it has waited for.
  std::array<ByLane, lane_count> waited;
  waited.fill(no_lane);
  const auto waits_of = [&](Lane lane, const std::vector<Touched>& all) {
    ByLane waits = no_lane;
    for (const TailPart& part : tail) {
      const size_t other = static_cast<size_t>(part.lane);
      const int32_t number = static_cast<int32_t>(part.part);
      int32_t& before = waited[static_cast<size_t>(lane)][other];
      if (part.lane == lane || number <= before) continue;
      if (!std::ranges::any_of(all, [&](const Touched& touched) { return conflict(touched, part.touched); })) continue;
      before = waits[other] = number;
    }
    return waits;
  };
  Touched io;
  for (const IoRange& range : io_of(program).read) io.written.push_back({io_arena, range.offset, range.offset + range.bytes});
  crossing.begin = waits_of(Lane::compute, {io});
  for (const Part& part : schedule.parts) {
    std::vector<Touched> all;
    for (uint32_t i = part.begin; i < part.end; ++i) all.push_back(touched_by(program.instructions[i]));
    crossing.parts.push_back(waits_of(part.lane, all));
  }
  for (const TailPart& part : tail) {
    const size_t other = static_cast<size_t>(part.lane);
    const int32_t number = static_cast<int32_t>(part.part);
    if (number > waited[compute][other]) crossing.answer[other] = number;
  }
  return crossing;
}

}  // namespace deeptroupe
