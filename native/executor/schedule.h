// What a device knows of a program before it runs: which bytes of `io` pass in and out, and the order in which a GPU works it off:
// instructions on one stream, collectives on another, events between the two where bytes demand it. Pure: nothing here knows of CUDA.
#pragma once

#include <vector>

#include "program.h"

namespace deeptroupe {

/// A stretch of one stream between two places where the other matters.
struct Part {
  /// Instructions begin to end - 1 of the compute stream, or the one collective at `begin`.
  uint32_t begin, end;
  bool collective;
  /// The event of the other stream that it waits for; -1: none.
  int wait = -1;
  /// The event that is recorded behind it; -1: none.
  int record = -1;
};

/// Bytes of the `io` arena.
struct IoRange {
  uint64_t offset, bytes;
};

struct Schedule {
  /// In the order of the program, which is the order in which they are enqueued: an event is recorded before it is waited for.
  std::vector<Part> parts;
  int events = 0;
  /// The event that the compute stream records before the first part; -1: no collective waits for what came before.
  int start = -1;
  /// The event that the compute stream waits for behind the last part; -1: none.
  int finish = -1;
  /// What the program reads of `io` before it has written it, and what it writes. Disjoint, by offset.
  std::vector<IoRange> io_read, io_written;
};

/// The program with what is known of it when it is loaded.
struct ScheduledProgram : Program {
  Schedule schedule;
};

/// Collectives get their own stream with `overlap`; else they are instructions like all others.
Schedule schedule_of(const Program& program, bool overlap);

}  // namespace deeptroupe
