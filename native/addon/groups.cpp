// Groups, as JavaScript makes, asks and closes them, and what this machine has for them.
#include "groups.h"

#include "gpu.h"
#include "isa.h"
#include "worker.h"

namespace deeptroupe {
namespace {

using Napi::CallbackInfo;
using Napi::Value;

Value available_isa(const CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const IsaLevel& level : isa_levels())
    if (level.available) names.Set(names.Length(), level.name);
  return names;
}

Value op_table_hash(const CallbackInfo& info) { return Napi::BigInt::New(info.Env(), abi::op_table_hash); }

Value gpu_machine(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const GpuReport report = report_gpus();
    const auto text = [&](const std::string& value) -> Value {
      return value.empty() ? info.Env().Null() : Napi::String::New(info.Env(), value);
    };
    Napi::Array devices = Napi::Array::New(info.Env());
    for (const GpuReport::Gpu& gpu : report.gpus) {
      Napi::Object object = Napi::Object::New(info.Env());
      object.Set("name", gpu.name);
      object.Set("memoryBytes", gpu.memory_bytes);
      object.Set("freeBytes", gpu.free_bytes);
      object.Set("compute", gpu.compute);
      object.Set("multiprocessors", gpu.multiprocessors);
      devices.Set(devices.Length(), object);
    }
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("devices", devices);
    object.Set("driver", text(report.driver));
    object.Set("cublasLt", text(report.cublaslt));
    object.Set("nccl", text(report.nccl));
    object.Set("linked", report.linked);
    if (!report.reason.empty()) object.Set("reason", report.reason);
    return object;
  });
}

/// Of (ranks, bytes of each arena as Float64Array, what the device is, io of each rank as Uint8Array[]).
int add_group_on(const CallbackInfo& info, std::unique_ptr<Device> device) {
  const uint32_t ranks = info[0].As<Napi::Number>();
  const auto sizes = info[1].As<Napi::Float64Array>();
  const auto buffers = info[3].As<Napi::Array>();
  ArenaBytes bytes;
  for (uint32_t i = 0; i < abi::arena_count; ++i) bytes[i] = static_cast<size_t>(sizes[i]);
  std::vector<std::byte*> io;
  for (uint32_t rank = 0; rank < ranks; ++rank)
    io.push_back(reinterpret_cast<std::byte*>(buffers.Get(rank).As<Napi::Uint8Array>().Data()));
  const int id = add_group(std::make_shared<Group>(bytes, io, std::move(device)));
  worker_of(info.Env()).groups.push_back(id);
  return id;
}

/// (ranks, bytes of each arena, instruction set, io of each rank) -> group
Value create_group(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const KernelTable& kernels = kernels_of(info[2].As<Napi::String>().Utf8Value());
    return Napi::Number::New(info.Env(), add_group_on(info, make_cpu_device(kernels)));
  });
}

/// (ranks, bytes of each arena, options, io of each rank) -> group
Value create_gpu_group(const CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto given = info[2].As<Napi::Object>();
    GpuOptions options;
    options.tf32 = given.Get("tf32").As<Napi::Boolean>();
    options.gelu_epilogues = given.Get("geluEpilogues").As<Napi::Boolean>();
    options.host_arenas = given.Get("onHost").As<Napi::Number>();
    for (const IsaLevel& level : isa_levels())
      if (level.available && !options.host_kernels) options.host_kernels = &kernels_of(level.name);
    options.choices = given.Get("choices").As<Napi::String>();
    const int ranks = info[0].As<Napi::Number>();
    return Napi::Number::New(info.Env(), add_group_on(info, make_gpu_device(ranks, options)));
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

}  // namespace

void add_group_functions(Napi::Env env, Napi::Object exports) {
  const auto add = [&]<Value (*function)(const CallbackInfo&)>(const char* name) {
    exports.Set(name, Napi::Function::New<function>(env, name));
  };
  add.operator()<available_isa>("isaLevels");
  add.operator()<op_table_hash>("opTableHash");
  add.operator()<gpu_machine>("gpuMachine");
  add.operator()<create_group>("createGroup");
  add.operator()<create_gpu_group>("createGpuGroup");
  add.operator()<abort_group>("abortGroup");
  add.operator()<group_memory>("groupMemory");
  add.operator()<mapped_bytes>("mappedBytes");
  add.operator()<group_progress>("groupProgress");
  add.operator()<renew_group>("renewGroup");
  add.operator()<group_idle>("groupIdle");
  add.operator()<close_group>("closeGroup");
}

}  // namespace deeptroupe
