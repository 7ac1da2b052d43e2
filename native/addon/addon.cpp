// The thin surface to JavaScript: integers and typed arrays in, integers and promises out. native/load.ts types it.
// Everything that one worker opened is kept in its `Worker` and ended by an environment cleanup hook: port first, then
// threads.
#include <napi.h>
#include <sched.h>

#include <map>
#include <new>
#include <optional>

#include "../executor/affinity.h"
#include "../executor/ceilings.h"
#include "../executor/executor.h"
#include "../executor/group.h"
#include "isa.h"
#include "port.h"

namespace deeptroupe {
namespace {

using Napi::CallbackInfo;
using Napi::Value;

/// A rank that a worker opened.
struct OpenRank {
  std::shared_ptr<Group> group;
  std::shared_ptr<Executor> executor;
  int rank;
  std::vector<std::shared_ptr<const Program>> programs;
};

struct Worker {
  int port = 0;
  std::map<int, OpenRank> ranks;
  int last_rank = 0;
  /// Groups that this worker made.
  std::vector<int> groups;
  std::map<uint64_t, napi_deferred> pending;
  uint64_t last_pending = 0;
};

/// Ends what the worker opened. The `Worker` itself lives until the environment is gone, for a message that is under way.
void end_worker(void* data) {
  Worker* const worker = static_cast<Worker*>(data);
  close_port(worker->port);
  worker->pending.clear();
  for (auto& [handle, open] : worker->ranks)
    if (!open.executor->ended())
      open.group->communicator.abort("rank " + std::to_string(open.rank) + ": its worker ended");
  for (auto& [handle, open] : worker->ranks) open.executor->join();
  for (const int id : worker->groups) {
    try {
      const std::shared_ptr<Group> group = group_of(id);
      remove_group(id);
      group->close();
    } catch (const UsageError&) {
      // Closed before.
    }
  }
  worker->ranks.clear();
}

Worker& worker_of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Worker*>(data);
}

/// Gives C++ errors to JavaScript with a code.
template <class F>
auto guarded(Napi::Env env, F&& body) -> decltype(body()) {
  const auto fail = [&](const char* code, const char* message) {
    Napi::Error error = Napi::Error::New(env, message);
    error.Set("code", code);
    throw error;
  };
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const ProgramError& error) {
    fail("PROGRAM_FORMAT", error.what());
  } catch (const std::bad_alloc&) {
    fail("DEVICE_MEMORY", "device: memory, expected as much as asked for, got less");
  } catch (const std::exception& error) {
    fail("DEVICE_USAGE", error.what());
  }
  throw std::logic_error("unreachable");
}

OpenRank& rank_of(const CallbackInfo& info) {
  std::map<int, OpenRank>& ranks = worker_of(info.Env()).ranks;
  const auto found = ranks.find(info[0].As<Napi::Number>().Int32Value());
  if (found == ranks.end()) throw UsageError("device: rank, expected an open one, got a closed one");
  return found->second;
}

/// A promise, and the number by which a native thread settles it. None in a worker that is being terminated: it runs
/// native calls until it comes to its next check, but makes no more promises.
std::optional<std::pair<uint64_t, Napi::Value>> promise(napi_env env) {
  Worker& worker = worker_of(env);
  napi_deferred deferred;
  napi_value value;
  if (napi_create_promise(env, &deferred, &value) != napi_ok) return std::nullopt;
  if (worker.pending.empty()) keep_alive(worker.port, env, true);
  worker.pending[++worker.last_pending] = deferred;
  return std::pair{worker.last_pending, Napi::Value(env, value)};
}

void settle(napi_env env, uint64_t id, napi_value value) {
  Worker& worker = worker_of(env);
  const auto found = worker.pending.find(id);
  if (found == worker.pending.end()) return;
  napi_resolve_deferred(env, found->second, value);
  worker.pending.erase(found);
  if (worker.pending.empty()) keep_alive(worker.port, env, false);
}

/// From a native thread: settles promise `id` on the worker of `port` with what `make` gives there.
template <class F>
void settle_later(int port, uint64_t id, F make) {
  post(port, [id, make = std::move(make)](napi_env env) {
    try {
      Napi::HandleScope scope(env);
      settle(env, id, make(Napi::Env(env)));
    } catch (const Napi::Error&) {
      // The worker is being terminated and makes no more objects; nobody waits for the promise.
    }
  });
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
  return object;
}

Value available_isa(const CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const IsaLevel& level : isa_levels())
    if (level.available) names.Set(names.Length(), level.name);
  return names;
}

Value op_table_hash(const CallbackInfo& info) { return Napi::BigInt::New(info.Env(), abi::op_table_hash); }

/// (ranks, bytes of each arena as Float64Array, instruction set, io of each rank as Uint8Array[]) -> group
Value create_group(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const int ranks = info[0].As<Napi::Number>().Int32Value();
    const auto sizes = info[1].As<Napi::Float64Array>();
    const auto io = info[3].As<Napi::Array>();
    ArenaBytes bytes;
    for (uint32_t i = 0; i < abi::arena_count; ++i) bytes[i] = static_cast<size_t>(sizes[i]);
    auto group = std::make_shared<Group>(ranks, bytes, kernels_of(info[2].As<Napi::String>().Utf8Value()));
    for (int rank = 0; rank < ranks; ++rank) {
      constexpr auto arena = static_cast<uint32_t>(abi::Arena::io);
      auto memory = io.Get(rank).As<Napi::Uint8Array>();
      group->memory[rank][arena].adopt(memory.Data(), bytes[arena]);
    }
    const int id = add_group(std::move(group));
    worker_of(info.Env()).groups.push_back(id);
    return Napi::Number::New(info.Env(), id);
  });
}

/// (group, reason)
Value abort_group(const CallbackInfo& info) {
  try {
    group_of(info[0].As<Napi::Number>().Int32Value())->communicator.abort(info[1].As<Napi::String>().Utf8Value());
  } catch (const UsageError&) {
    // A closed group has no runs to end.
  }
  return info.Env().Undefined();
}

/// (group, rank) -> [live, peak] of each arena
Value group_memory(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const std::shared_ptr<Group> group = group_of(info[0].As<Napi::Number>().Int32Value());
    const RankMemory& memory = group->memory.at(info[1].As<Napi::Number>().Int32Value());
    Napi::Float64Array counts = Napi::Float64Array::New(info.Env(), 2 * memory.size());
    for (size_t i = 0; i < memory.size(); ++i) {
      counts[2 * i] = static_cast<double>(memory[i].live());
      counts[2 * i + 1] = static_cast<double>(memory[i].peak());
    }
    return counts;
  });
}

/// () -> bytes that native arenas have mapped in this process
Value mapped_bytes(const CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Arena::mapped_in_all()));
}

/// (group) -> progress of each rank
Value group_progress(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const std::vector<Progress> progress = group_of(info[0].As<Napi::Number>().Int32Value())->progress();
    Napi::Float64Array all = Napi::Float64Array::New(info.Env(), progress.size());
    std::copy(progress.begin(), progress.end(), all.Data());
    return all;
  });
}

/// (group)
Value renew_group(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    group_of(info[0].As<Napi::Number>().Int32Value())->renew();
    return info.Env().Undefined();
  });
}

/// (group) -> whether closing it would wait for no thread
Value group_idle(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    return Napi::Boolean::New(info.Env(), group_of(info[0].As<Napi::Number>().Int32Value())->idle());
  });
}

/// (group)
Value close_group(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const int id = info[0].As<Napi::Number>().Int32Value();
    const std::shared_ptr<Group> group = group_of(id);
    remove_group(id);
    group->close();
    std::erase(worker_of(info.Env()).groups, id);
    return info.Env().Undefined();
  });
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
    const int threads = info[2].As<Napi::Number>().Int32Value();
    worker.ranks[++worker.last_rank] = {group, group->open(rank, threads, std::move(own)), rank, {}};
    Napi::Object opened = Napi::Object::New(info.Env());
    opened.Set("handle", worker.last_rank);
    opened.Set("kept", static_cast<double>(group->take_kept(rank)));
    return opened;
  });
}

/// (handle, arena)
Value allocate(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const uint32_t arena = info[1].As<Napi::Number>().Uint32Value();
    std::unique_lock lock(open.group->memory_mutex);
    Arena& target = open.group->memory[open.rank].at(arena);
    if (target.reserved())
      throw UsageError(std::string("allocate: arena ") + abi::arena_names[arena] + ", expected none yet, got one of " +
                       std::to_string(target.live()) + " bytes");
    target.reserve(open.group->bytes[arena]);
    return info.Env().Undefined();
  });
}

/// Bytes `count` at `offset` of an arena.
std::byte* arena_bytes(const OpenRank& open, const char* operation, uint32_t arena, double offset, size_t count) {
  const Arena& source = open.group->memory[open.rank].at(arena);
  if (!source.reserved())
    throw UsageError(std::string(operation) +
        ": arena " + abi::arena_names[arena] + ", expected it to be allocated, got nothing");
  if (!(offset >= 0) || offset + static_cast<double>(count) > static_cast<double>(source.live()))
    throw UsageError(std::string(operation) + ": arena " + abi::arena_names[arena] + ", expected a range inside its " +
                     std::to_string(source.live()) + " bytes, got " + std::to_string(count) + " at " +
                     std::to_string(static_cast<int64_t>(offset)));
  return source.base() + static_cast<size_t>(offset);
}

/// (handle, arena, offset, target as Uint8Array)
Value read(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    auto target = info[3].As<Napi::Uint8Array>();
    std::shared_lock lock(open.group->memory_mutex);
    const std::byte* source = arena_bytes(open, "read", info[1].As<Napi::Number>().Uint32Value(),
                                          info[2].As<Napi::Number>().DoubleValue(), target.ByteLength());
    std::copy_n(reinterpret_cast<const uint8_t*>(source), target.ByteLength(), target.Data());
    return info.Env().Undefined();
  });
}

/// (handle, arena, offset, source as Uint8Array)
Value write(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const auto source = info[3].As<Napi::Uint8Array>();
    std::shared_lock lock(open.group->memory_mutex);
    std::byte* target = arena_bytes(open, "write", info[1].As<Napi::Number>().Uint32Value(),
                                    info[2].As<Napi::Number>().DoubleValue(), source.ByteLength());
    std::copy_n(source.Data(), source.ByteLength(), reinterpret_cast<uint8_t*>(target));
    return info.Env().Undefined();
  });
}

/// (handle, program as Uint8Array) -> program's number
Value load(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    OpenRank& open = rank_of(info);
    const auto bytes = info[1].As<Napi::Uint8Array>();
    std::shared_lock lock(open.group->memory_mutex);
    open.programs.push_back(load_program({reinterpret_cast<const std::byte*>(bytes.Data()), bytes.ByteLength()},
                                         {open.group->memory[open.rank], open.group->kernels, open.rank,
                                          open.group->communicator.ranks()}));
    return Napi::Number::New(info.Env(), static_cast<double>(open.programs.size() - 1));
  });
}

/// (handle, program, scalars as Float64Array, check, profile) -> promise of the report
Value run(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const OpenRank& open = rank_of(info);
    const uint32_t number = info[1].As<Napi::Number>().Uint32Value();
    if (number >= open.programs.size())
      throw UsageError("run: program, expected a loaded one, got " + std::to_string(number));
    const auto scalars = info[2].As<Napi::Float64Array>();
    RunRequest request;
    request.program = open.programs[number];
    if (scalars.ElementLength() != request.program->scalar_count)
      throw UsageError("run: scalars, expected " + std::to_string(request.program->scalar_count) + ", got " +
                       std::to_string(scalars.ElementLength()));
    request.scalars.assign(scalars.Data(), scalars.Data() + scalars.ElementLength());
    request.check = info[3].As<Napi::Boolean>();
    request.profile = info[4].As<Napi::Boolean>();
    if (open.executor->ended())
      throw UsageError("run: rank " + std::to_string(open.rank) + ", expected an open one, got a closed one");
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
  auto* worker = new Worker;
  napi_set_instance_data(
      env, worker, [](napi_env, void* data, void*) { delete static_cast<Worker*>(data); }, nullptr);
  worker->port = open_port(env);
  // After the port's function, so that this hook runs before Node takes the function away.
  napi_add_env_cleanup_hook(env, end_worker, worker);
  const auto add = [&]<Value (*function)(const CallbackInfo&)>(const char* name) {
    exports.Set(name, Napi::Function::New<function>(env, name));
  };
  add.operator()<available_isa>("isaLevels");
  add.operator()<op_table_hash>("opTableHash");
  add.operator()<create_group>("createGroup");
  add.operator()<abort_group>("abortGroup");
  add.operator()<group_memory>("groupMemory");
  add.operator()<mapped_bytes>("mappedBytes");
  add.operator()<group_progress>("groupProgress");
  add.operator()<renew_group>("renewGroup");
  add.operator()<group_idle>("groupIdle");
  add.operator()<close_group>("closeGroup");
  add.operator()<open_rank>("openRank");
  add.operator()<allocate>("allocate");
  add.operator()<read>("read");
  add.operator()<write>("write");
  add.operator()<load>("load");
  add.operator()<run>("run");
  add.operator()<close_rank>("closeRank");
  add.operator()<yield_core>("yieldCore");
  add.operator()<ceilings>("ceilings");
  return exports;
}

NODE_API_MODULE(deeptroupe, initialize)

}  // namespace
}  // namespace deeptroupe
