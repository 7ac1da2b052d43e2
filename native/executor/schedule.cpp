// Which instructions touch the same bytes, and what has to wait therefore.
#include "schedule.h"

#include <algorithm>
#include <optional>

namespace deeptroupe {
namespace {

constexpr auto io_arena = static_cast<uint32_t>(abi::Arena::io);

struct Span {
  uint32_t arena;
  uint64_t begin, end;
};

Span span_of(const ProgramTensor& tensor) {
  return {tensor.place.arena, tensor.place.offset, tensor.place.offset + tensor.place.bytes()};
}

struct Touched {
  std::vector<Span> read, written;
};

Touched touched_by(const ProgramInstruction& instruction) {
  Touched touched;
  for (const ProgramTensor* input : instruction.inputs)
    if (input) touched.read.push_back(span_of(*input));
  for (const ProgramTensor* output : instruction.outputs)
    if (output) touched.written.push_back(span_of(*output));
  if (instruction.workspace) touched.written.push_back(span_of(*instruction.workspace));
  return touched;
}

bool meet(const std::vector<Span>& a, const std::vector<Span>& b) {
  for (const Span& x : a)
    for (const Span& y : b)
      if (x.arena == y.arena && x.begin < y.end && y.begin < x.end) return true;
  return false;
}

bool conflict(const Touched& a, const Touched& b) {
  return meet(a.written, b.read) || meet(a.written, b.written) || meet(a.read, b.written);
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

void find_io(const Program& program, Schedule& schedule) {
  for (const ProgramInstruction& instruction : program.instructions) {
    const Touched touched = touched_by(instruction);
    const auto read = [&](const Span& span) {
      if (span.arena == io_arena && !covered(schedule.io_written, span)) add_range(schedule.io_read, span);
    };
    for (const Span& span : touched.read) read(span);
    for (const Span& span : touched.written) {
      // Of what a collective writes it may leave the slices of other ranks as they are.
      if (instruction.collective) read(span);
      if (span.arena == io_arena) add_range(schedule.io_written, span);
    }
  }
}

class Scheduler {
 public:
  Scheduler(const Program& program, Schedule& schedule)
      : program_(program), schedule_(schedule), count_(program.instructions.size()) {
    for (const ProgramInstruction& instruction : program.instructions) touched_.push_back(touched_by(instruction));
  }

  void run() {
    find_waits();
    std::vector<int> event_of(count_, -1);
    const auto record = [&](int64_t i) {
      int& event = event_of[i];
      if (event < 0) event = schedule_.events++;
      return event;
    };
    for (size_t i = 0; i < count_; ++i) {
      if (waits_[i] == before_all) schedule_.start = schedule_.start < 0 ? schedule_.events++ : schedule_.start;
      else if (waits_[i] >= 0) record(waits_[i]);
    }
    if (last_ >= 0) schedule_.finish = record(last_);

    for (size_t i = 0; i < count_; ++i) {
      const bool collective = is_collective(i);
      const int wait = waits_[i] == before_all ? schedule_.start : waits_[i] >= 0 ? event_of[waits_[i]] : -1;
      const uint32_t at = static_cast<uint32_t>(i);
      const bool joins = !collective && wait < 0 && !schedule_.parts.empty() && !schedule_.parts.back().collective &&
                         schedule_.parts.back().record < 0;
      if (joins) schedule_.parts.back().end = at + 1;
      else schedule_.parts.push_back({at, at + 1, collective, wait, -1});
      schedule_.parts.back().record = event_of[i];
    }
  }

 private:
  static constexpr int64_t before_all = -1, nothing = -2;

  bool is_collective(size_t i) const { return program_.instructions[i].collective; }

  /// A barrier is behind all that came before it and ahead of all that follows.
  bool must_wait(size_t later, size_t earlier) const {
    const auto barrier = [&](size_t i) { return program_.instructions[i].op->opcode == abi::Opcode::barrier; };
    return barrier(later) || barrier(earlier) || conflict(touched_[later], touched_[earlier]);
  }

  /// For each instruction the last one of the other stream that it must wait for, where its own stream has not waited for it yet.
  void find_waits() {
    waits_.assign(count_, nothing);
    // The last of the other stream that each stream has waited for. Before a run's start there may be an earlier run.
    int64_t computed = nothing, collected = nothing;
    for (size_t i = 0; i < count_; ++i) {
      const bool collective = is_collective(i);
      int64_t& waited = collective ? computed : collected;
      for (int64_t j = static_cast<int64_t>(i) - 1; j > waited && j >= 0; --j) {
        if (is_collective(j) == collective || !must_wait(i, j)) continue;
        waits_[i] = waited = j;
        break;
      }
      if (collective && waited == nothing) waits_[i] = waited = before_all;
      if (collective) last_ = static_cast<int64_t>(i);
    }
    if (last_ <= collected) last_ = nothing;
  }

  const Program& program_;
  Schedule& schedule_;
  const size_t count_;
  std::vector<Touched> touched_;
  std::vector<int64_t> waits_;
  /// The last collective, where the compute stream has not waited for it.
  int64_t last_ = nothing;
};

}  // namespace

Schedule schedule_of(const Program& program, bool overlap) {
  Schedule schedule;
  find_io(program, schedule);
  if (overlap) Scheduler(program, schedule).run();
  else if (!program.instructions.empty())
    schedule.parts.push_back({0, static_cast<uint32_t>(program.instructions.size()), false});
  return schedule;
}

}  // namespace deeptroupe
