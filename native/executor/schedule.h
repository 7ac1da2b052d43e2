// What a device knows of a program before it runs: which bytes of `io` pass in and out, and the order in which a GPU works it off:
// instructions on lanes that go on side by side, and what has to wait for what where bytes demand it, within a run and from one run to
// the next. Pure: nothing here knows of CUDA.
#pragma once

#include <array>
#include <vector>

#include "program.h"

namespace deeptroupe {

/// What works beside the others and does its parts in order, those of one run behind those of the run before. `download` copies from
/// the device to the host, `host` computes there, `upload` copies back.
enum class Lane : uint8_t { compute, communication, download, host, upload };
inline constexpr size_t lane_count = 5;

/// A number for each lane.
using ByLane = std::array<int32_t, lane_count>;
inline constexpr ByLane no_lane = {-1, -1, -1, -1, -1};

/// A stretch of one lane between two places where others matter. Only on `compute` has it more than one instruction.
struct Part {
  /// Instructions begin to end - 1.
  uint32_t begin, end;
  Lane lane;
  /// The last part of each other lane that it waits for; -1: none.
  ByLane waits = no_lane;
  /// It waits for what `compute` did before the run.
  bool after_start = false;
  /// Somebody waits for it.
  bool awaited = false;
};

struct Span {
  uint32_t arena;
  uint64_t begin, end;
};

/// What an instruction or a part reads and writes. A barrier touches everything.
struct Touched {
  std::vector<Span> read, written;
  bool everything = false;
};

/// Bytes of the `io` arena.
struct IoRange {
  uint64_t offset, bytes;
};

/// What a program reads of `io` before it has written it, and what it writes. Disjoint, by offset.
struct IoUse {
  std::vector<IoRange> read, written;
};

IoUse io_of(const Program& program);

/// Where things are done.
struct Places {
  /// Collectives are between several ranks: they have a lane of their own.
  bool several = false;
  /// Bit a: arena a lies in memory of the host.
  uint32_t host_arenas = 0;
};

/// What may still go on when a run has given its answer.
struct TailPart {
  /// Its number among the program's parts.
  uint32_t part;
  Lane lane;
  Touched touched;
};
using Tail = std::vector<TailPart>;

struct Schedule {
  /// In the order of the program, which is the order in which they are put onto their lanes.
  std::vector<Part> parts;
  /// The run's answer is taken on `compute` ahead of this part: behind it come only parts of other lanes that leave `io` alone ...
  uint32_t answer = 0;
  /// ... and after these.
  ByLane answer_waits = no_lane;
  /// The parts that `compute` has not waited for in the end.
  Tail tail;
  /// The last part of each lane.
  ByLane last = no_lane;

  bool starts() const;
};

/// The program with what is known of it when it is loaded.
struct ScheduledProgram : Program {
  IoUse io;
  /// On a GPU.
  Places places;
  Tail tail;
};

/// A part begins where more of one of the tails comes into play, so that what waits for it does so late.
Schedule schedule_of(const Program& program, const Places& places, const std::vector<const Tail*>& tails = {});

/// What a run waits for in the tail of the run before: parts of that one, by lane.
struct Crossing {
  /// For each part of the later run.
  std::vector<ByLane> parts;
  /// Before the run gets what it reads of `io`.
  ByLane begin = no_lane;
  /// Before its answer: all that is left, so that no tail outlasts the next run.
  ByLane answer = no_lane;
};

Crossing crossing_of(const Tail& tail, const Program& program, const Schedule& schedule);

}  // namespace deeptroupe
