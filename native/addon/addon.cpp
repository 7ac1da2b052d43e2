// The thin surface to JavaScript: integers and typed arrays in, integers and promises out. native/load.ts types it. Here
// are the ranks; groups.cpp has the groups.
#include <sched.h>

#include <cstring>

#include "../executor/affinity.h"
#include "../executor/ceilings.h"
#include "../executor/schedule.h"
#include "gpu.h"
#include "groups.h"
#include "isa.h"
#include "worker.h"

namespace deeptroupe {
namespace {

using Napi::CallbackInfo;
using Napi::Value;

OpenRank& rank_of(const CallbackInfo& info) {
  std::map<int, OpenRank>& ranks = worker_of(info.Env()).ranks;
  const auto found = ranks.find(info[0].As<Napi::Number>().Int32Value());
  if (found == ranks.end()) throw UsageError("device: rank, expected an open one, got a closed one");
  return found->second;
}

Napi::Value report_object(Napi::Env env, const RunReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("status", static_cast<int>(report.status));
  object.Set("message", report.message);
  object.Set("instruction", static_cast<double>(report.instruction));
  object.Set("nonFinite", static_cast<double>(report.non_finite));
  Napi::Float64Array seconds = Napi::Float64Array::New(env, report.seconds.size());
  std::copy(report.seconds.begin(), report.seconds.end(), seconds.Data());
  object.Set("seconds", seconds);
  if (report.io.empty()) return object;
  Napi::Array io = Napi::Array::New(env, report.io.size());
  for (uint32_t i = 0; i < report.io.size(); ++i) {
    Napi::Object written = Napi::Object::New(env);
    Napi::Uint8Array bytes = Napi::Uint8Array::New(env, report.io[i].bytes.size());
    std::memcpy(bytes.Data(), report.io[i].bytes.data(), report.io[i].bytes.size());
    written.Set("offset", static_cast<double>(report.io[i].offset));
    written.Set("bytes", bytes);
    io.Set(i, written);
  }
  object.Set("io", io);
  return object;
}

/// (group, rank, threads, CPU of each thread as Int32Array or none) -> { handle, kept }
Value open_rank(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Worker& worker = worker_of(info.Env());
    const std::shared_ptr<Group> group = group_of(info[0].As<Napi::Number>().Int32Value());
    const int rank = info[1].As<Napi::Number>().Int32Value();
    const auto cores = info[3].As<Napi::Int32Array>();
    std::vector<int> own(cores.Data(), cores.Data() + cores.ElementLength());
    expect_allowed(own);
    std::shared_ptr<Executor> executor = group->open(rank, info[2].As<Napi::Number>().Int32Value(), std::move(own));
    executor->expect_open();
    worker.ranks[++worker.last_rank] = {group, std::move(executor), rank};
    Napi::Object opened = Napi::Object::New(info.Env());
    opened.Set("handle", worker.last_rank);
    opened.Set("kept", static_cast<double>(group->take_kept(rank)));
    return opened;
  });
}

/// (handle, arena)
Value allocate(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    rank_of(info).executor->allocate(info[1].As<Napi::Number>().Uint32Value());
    return info.Env().Undefined();
  });
}

/// (handle, arena, offset, target as Uint8Array)
Value read(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto target = info[3].As<Napi::Uint8Array>();
    rank_of(info).executor->read(info[1].As<Napi::Number>().Uint32Value(), info[2].As<Napi::Number>().DoubleValue(),
                                 reinterpret_cast<std::byte*>(target.Data()), target.ByteLength());
    return info.Env().Undefined();
  });
}

/// (handle, arena, offset, source as Uint8Array)
Value write(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto source = info[3].As<Napi::Uint8Array>();
    rank_of(info).executor->write(info[1].As<Napi::Number>().Uint32Value(), info[2].As<Napi::Number>().DoubleValue(),
                                  reinterpret_cast<const std::byte*>(source.Data()), source.ByteLength());
    return info.Env().Undefined();
  });
}

/// (handle, program as Uint8Array) -> program's number
Value load(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    OpenRank& open = rank_of(info);
    const auto bytes = info[1].As<Napi::Uint8Array>();
    open.programs.push_back(
        open.executor->load({reinterpret_cast<const std::byte*>(bytes.Data()), bytes.ByteLength()}));
    return Napi::Number::New(info.Env(), static_cast<double>(open.programs.size() - 1));
  });
}

const std::shared_ptr<const ScheduledProgram>& program_of(const OpenRank& open, const Value& number) {
  const uint32_t index = number.As<Napi::Number>().Uint32Value();
  if (index >= open.programs.size())
    throw UsageError("run: program, expected a loaded one, got " + std::to_string(index));
  return open.programs[index];
}

/// (handle, programs, several ranks, arenas on the host as bits) -> of each program, run after one another, how a GPU would work off it
/// (schedule.h): `parts` as [begin, end, lane, after start, waits by lane] of each, `answer` as [part, waits by lane], `tail` as parts,
/// `crossing` as [waits by lane] of the beginning, each part and the answer, in the tail of the program before it in the list (the last
/// before the first), `ioRead` and `ioWritten` as [offset, bytes] of each range
Value schedules(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const auto numbers = info[1].As<Napi::Array>();
    const Places places{info[2].As<Napi::Boolean>(), info[3].As<Napi::Number>().Uint32Value()};
    std::vector<const Program*> programs;
    std::vector<Tail> tails;
    for (uint32_t i = 0; i < numbers.Length(); ++i) {
      programs.push_back(program_of(open, numbers.Get(i)).get());
      tails.push_back(schedule_of(*programs.back(), places).tail);
    }
    std::vector<const Tail*> all;
    for (const Tail& tail : tails) all.push_back(&tail);
    const auto array = [&](const std::vector<double>& list) {
      Napi::Float64Array array = Napi::Float64Array::New(info.Env(), list.size());
      std::copy(list.begin(), list.end(), array.Data());
      return array;
    };
    const auto add = [](std::vector<double>& list, const ByLane& waits) { list.insert(list.end(), waits.begin(), waits.end()); };
    const auto ranges = [&](const std::vector<IoRange>& list) {
      std::vector<double> flat;
      for (const IoRange& range : list) flat.insert(flat.end(), {double(range.offset), double(range.bytes)});
      return array(flat);
    };
    Napi::Array results = Napi::Array::New(info.Env());
    for (uint32_t i = 0; i < programs.size(); ++i) {
      const Schedule schedule = schedule_of(*programs[i], places, all);
      std::vector<double> parts, answer{double(schedule.answer)}, tail, crossings;
      for (const Part& part : schedule.parts) {
        parts.insert(parts.end(), {double(part.begin), double(part.end), double(part.lane), double(part.after_start)});
        add(parts, part.waits);
      }
      add(answer, schedule.answer_waits);
      for (const TailPart& part : schedule.tail) tail.push_back(part.part);
      const size_t before = (i + programs.size() - 1) % programs.size();
      const Crossing crossing = crossing_of(schedule_of(*programs[before], places, all).tail, *programs[i], schedule);
      add(crossings, crossing.begin);
      for (const ByLane& waits : crossing.parts) add(crossings, waits);
      add(crossings, crossing.answer);
      const IoUse io = io_of(*programs[i]);
      Napi::Object object = Napi::Object::New(info.Env());
      object.Set("parts", array(parts));
      object.Set("answer", array(answer));
      object.Set("tail", array(tail));
      object.Set("crossing", array(crossings));
      object.Set("ioRead", ranges(io.read));
      object.Set("ioWritten", ranges(io.written));
      results.Set(i, object);
    }
    return results;
  });
}

/// (handle, program, scalars as Float64Array, check, profile, more) -> promise of the report
Value run(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const auto scalars = info[2].As<Napi::Float64Array>();
    RunRequest request;
    request.program = program_of(open, info[1]);
    if (scalars.ElementLength() != request.program->scalar_count)
      throw UsageError("run: scalars, expected " + std::to_string(request.program->scalar_count) + ", got " +
                       std::to_string(scalars.ElementLength()));
    request.scalars.assign(scalars.Data(), scalars.Data() + scalars.ElementLength());
    request.check = info[3].As<Napi::Boolean>();
    request.profile = info[4].As<Napi::Boolean>();
    if (open.executor->ended())
      throw UsageError("run: rank " + std::to_string(open.rank) + ", expected an open one, got a closed one");
    open.executor->take_io(request);
    const auto made = promise(info.Env());
    if (!made) return info.Env().Undefined();
    const auto [id, value] = *made;
    const uint64_t number = *open.runs + 1;
    request.done = [port = worker_of(info.Env()).port, id = id, more = info[5].As<Napi::Boolean>().Value(), runs = open.runs,
                    number](RunReport report) {
      // A later run that is asked for by now comes to its end and is told then.
      const bool may_wait = more && report.status == RunStatus::done && runs->load() > number;
      settle_later(port, id, [report = std::move(report)](Napi::Env env) { return report_object(env, report); }, may_wait);
    };
    open.executor->enqueue(std::move(request));
    open.runs->store(number);
    return value;
  });
}

/// (handle, kept) -> promise, when the runs enqueued so far are done and the rank's threads have ended
Value close_rank(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const int handle = info[0].As<Napi::Number>().Int32Value();
    const auto made = promise(info.Env());
    if (!made) return info.Env().Undefined();
    const auto [id, value] = *made;
    open.group->keep(open.rank, info[1].As<Napi::Number>().Int64Value());
    open.executor->finish([port = worker_of(info.Env()).port, id = id, handle] {
      settle_later(port, id, [handle](Napi::Env env) {
        std::map<int, OpenRank>& ranks = worker_of(env).ranks;
        if (const auto found = ranks.find(handle); found != ranks.end()) {
          found->second.executor->join();
          ranks.erase(found);
        }
        return env.Undefined();
      });
    });
    return value;
  });
}

/// (instruction set, threads) -> [operations of f32, of bf16, bytes] in a second, measured while JavaScript waits
Value ceilings(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const KernelTable& kernels = kernels_of(info[0].As<Napi::String>().Utf8Value());
    const Ceilings measured = measure_ceilings(kernels, info[1].As<Napi::Number>().Int32Value());
    Napi::Float64Array rates = Napi::Float64Array::New(info.Env(), 3);
    rates[0] = measured.f32;
    rates[1] = measured.bf16;
    rates[2] = measured.bytes;
    return rates;
  });
}

/// () -> lets another thread of this core run, if one waits for it
Value yield_core(const CallbackInfo& info) {
  sched_yield();
  return info.Env().Undefined();
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  static const bool prepared = (prepare_gpu_environment(), true);
  static_cast<void>(prepared);
  open_worker(env);
  add_group_functions(env, exports);
  const auto add = [&]<Value (*function)(const CallbackInfo&)>(const char* name) {
    exports.Set(name, Napi::Function::New<function>(env, name));
  };
  add.operator()<open_rank>("openRank");
  add.operator()<allocate>("allocate");
  add.operator()<read>("read");
  add.operator()<write>("write");
  add.operator()<load>("load");
  add.operator()<schedules>("schedules");
  add.operator()<run>("run");
  add.operator()<close_rank>("closeRank");
  add.operator()<yield_core>("yieldCore");
  add.operator()<ceilings>("ceilings");
  return exports;
}

NODE_API_MODULE(deeptroupe, initialize)

}  // namespace
}  // namespace deeptroupe
