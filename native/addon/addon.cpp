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
    worker.ranks[++worker.last_rank] = {group, std::move(executor), rank, {}};
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

/// (handle, program) -> how a GPU would work off the program among others: `parts` as [begin, end, collective, wait,
/// record] of each, the events `start` and `finish`, `ioRead` and `ioWritten` as [offset, bytes] of each range
Value schedule(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const Schedule schedule = schedule_of(*program_of(rank_of(info), info[1]), true);
    const auto array = [&](const std::vector<double>& numbers) {
      Napi::Float64Array array = Napi::Float64Array::New(info.Env(), numbers.size());
      std::copy(numbers.begin(), numbers.end(), array.Data());
      return array;
    };
    std::vector<double> parts;
    for (const Part& part : schedule.parts)
      for (const double number : {double(part.begin), double(part.end), double(part.collective), double(part.wait), double(part.record)})
        parts.push_back(number);
    const auto ranges = [&](const std::vector<IoRange>& list) {
      std::vector<double> numbers;
      for (const IoRange& range : list)
        for (const uint64_t number : {range.offset, range.bytes}) numbers.push_back(static_cast<double>(number));
      return array(numbers);
    };
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("parts", array(parts));
    object.Set("start", schedule.start);
    object.Set("finish", schedule.finish);
    object.Set("ioRead", ranges(schedule.io_read));
    object.Set("ioWritten", ranges(schedule.io_written));
    return object;
  });
}

/// (handle, program, scalars as Float64Array, check, profile) -> promise of the report
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
    request.done = [port = worker_of(info.Env()).port, id = id](RunReport report) {
      settle_later(port, id, [report = std::move(report)](Napi::Env env) { return report_object(env, report); });
    };
    open.executor->enqueue(std::move(request));
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
  add.operator()<schedule>("schedule");
  add.operator()<run>("run");
  add.operator()<close_rank>("closeRank");
  add.operator()<yield_core>("yieldCore");
  add.operator()<ceilings>("ceilings");
  return exports;
}

NODE_API_MODULE(deeptroupe, initialize)

}  // namespace
}  // namespace deeptroupe
