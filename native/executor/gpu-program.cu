// Puts programs onto the lanes of a GPU.
#include "gpu-program.h"

#include <algorithm>

#include "../memory/words.h"

namespace deeptroupe::gpu {
namespace {

/// Instructions of a segment between two crumbs.
constexpr uint32_t crumb_distance = 8;
/// A shorter segment is not worth a graph.
constexpr uint32_t least_graph = 2;

__global__ void say_done(const Control* control, volatile uint64_t* done, uint32_t instruction) {
  *done = control->before + instruction;
  __threadfence_system();
}

/// A number whose bits of `exponent` are all set is infinite or not a number.
template <class Bits>
__global__ void find_exponent(const Bits* data, int64_t count, Bits exponent, uint32_t* first, uint32_t instruction) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    if ((data[i] & exponent) != exponent) continue;
    atomicMin(first, instruction);
    return;
  }
}

template <class Bits>
void search(const Tensor& tensor, Bits exponent, uint32_t* first, uint32_t instruction, Stream stream) {
  constexpr int threads = 256;
  const int64_t count = tensor.elements();
  if (count == 0) return;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>((count + threads - 1) / threads, 2048)));
  launch(find_exponent<Bits>, grid, dim3(threads), 0, stream, tensor.as<Bits>(), count, exponent, first, instruction);
}

}  // namespace

Stream RankContext::stream(Lane lane) const {
  switch (lane) {
    case Lane::communication: return communication;
    case Lane::download: return download;
    case Lane::upload: return upload;
    case Lane::host: return nullptr;
    default: return compute;
  }
}

Status RankContext::drain() const {
  Status result = success;
  for (const Stream stream : {Stream(compute), Stream(communication), Stream(download), Stream(upload)})
    if (const Status status = cudaStreamSynchronize(stream); result == success) result = status;
  return result;
}

bool Launch::complete() const { return answered && next == program->schedule().parts.size(); }

GpuProgram::GpuProgram(std::shared_ptr<const ScheduledProgram> program, RankContext& context)
    : program_(std::move(program)),
      context_(context),
      meets_(context.several() && std::ranges::any_of(program_->instructions, &ProgramInstruction::collective)) {
  const std::vector<ProgramInstruction>& instructions = program_->instructions;
  operations_.reserve(instructions.size());
  for (size_t i = 0; i < instructions.size(); ++i) {
    const ProgramInstruction& instruction = instructions[i];
    Operation& operation = operations_.emplace_back();
    for (const uint32_t slot : instruction.scalars) operation.scalars.push_back(context.control->scalars + slot);
    Call& call = operation.call;
    call = call_of<Call>(instruction);
    call.scalars = operation.scalars.data();
    call.device = &context.properties;
    call.products = context.products.get();
    call.fault = &context.control->fault;
    call.instruction = static_cast<unsigned>(i);
    call.rank = context.rank;
    call.ranks = context.ranks;
  }
}

void GpuProgram::schedule(const std::vector<const Tail*>& tails) {
  schedule_ = schedule_of(*program_, program_->places, tails);
  scheduled_ = true;
  for (const Part& part : schedule_.parts) {
    for (uint32_t i = part.begin; i < part.end; ++i) operations_[i].call.stream = context_.stream(part.lane);
    events_.push_back(part.awaited && part.lane != Lane::host ? make_event() : Event());
  }
  if (schedule_.starts()) start_ = make_event();
  graphs_.resize(schedule_.parts.size());
}

void GpuProgram::proceed(Launch& launch, const Wake* before) {
  if (context_.host) context_.host->expect_well();
  if (!launch.begun && !begin(launch, before)) return;
  const uint32_t parts = static_cast<uint32_t>(schedule_.parts.size());
  const uint32_t answered = launch.whole() ? parts : schedule_.answer;
  if (launch.pace == Pace::whole && launch.next < parts) {
    check(cudaGraphLaunch(whole_, context_.compute), "launch of a graph with collectives");
    launch.next = parts;
    launch.instruction = static_cast<uint32_t>(operations_.size());
  }
  for (;;) {
    if (context_.group->aborted()) throw Aborted();
    if (launch.next >= answered && !launch.answered && !answer(launch, before)) return;
    if (launch.next == parts || !put(launch, before)) return;
  }
}

bool GpuProgram::begin(Launch& launch, const Wake* before) {
  if (context_.group->aborted()) throw Aborted();
  if (before && !wait(Lane::compute, {{before->launch, &before->crossing->begin}})) return false;
  launch.begun = true;
  launch.numbers.resize(schedule_.parts.size());
  if (launch.around) launch.news->seconds.resize(2 * operations_.size());
  ++runs_;
  launch.tell();
  if (start_) check(cudaEventRecord(start_, context_.compute), "event");
  return true;
}

bool GpuProgram::put(Launch& launch, const Wake* before) {
  const Part& part = schedule_.parts[launch.next];
  const Stream stream = context_.stream(part.lane);
  if (!launch.entered) {
    if (!enter(part, launch, before)) return false;
    launch.entered = true;
    launch.instruction = part.begin;
    if (part.lane == Lane::communication) announce(part.begin, launch);
  }
  switch (part.lane) {
    case Lane::compute:
      if (launch.pace == Pace::replay && graphs_[launch.next]) check(cudaGraphLaunch(graphs_[launch.next], stream), "launch of a graph");
      else segment(part, launch);
      break;
    case Lane::communication:
      if (!collective(part.begin, launch)) return false;
      break;
    case Lane::host: post(part.begin, launch); break;
    default: operate(part.begin, launch);
  }
  if (events_[launch.next]) check(cudaEventRecord(events_[launch.next], stream), "event");
  launch.entered = false;
  ++launch.next;
  return true;
}

bool GpuProgram::enter(const Part& part, const Launch& launch, const Wake* before) {
  // Lanes do the parts of one run behind those of the run before.
  if (before) {
    const int32_t last = before->launch->program->schedule_.last[static_cast<size_t>(part.lane)];
    if (last >= static_cast<int32_t>(before->launch->next)) return false;
    if (!wait(part.lane, {{&launch, &part.waits}, {before->launch, &before->crossing->parts[launch.next]}})) return false;
  } else if (!wait(part.lane, {{&launch, &part.waits}})) {
    return false;
  }
  if (!part.after_start) return true;
  if (part.lane != Lane::host) {
    check(cudaStreamWaitEvent(context_.stream(part.lane), start_, 0), "wait for an event");
    return true;
  }
  const Status status = look(cudaEventQuery(start_));
  if (status == cudaErrorNotReady) return false;
  check(status, "start of a run");
  return true;
}

bool GpuProgram::answer(Launch& launch, const Wake* before) {
  ByLane own = launch.pace == Pace::whole ? no_lane : schedule_.answer_waits;
  if (launch.whole() && launch.pace != Pace::whole)
    for (const TailPart& part : schedule_.tail) own[static_cast<size_t>(part.lane)] = static_cast<int32_t>(part.part);
  if (before ? !wait(Lane::compute, {{&launch, &own}, {before->launch, &before->crossing->answer}})
             : !wait(Lane::compute, {{&launch, &own}}))
    return false;
  crumb(static_cast<uint32_t>(operations_.size()));
  launch.ask();
  launch.answered = true;
  return true;
}

bool GpuProgram::wait(Lane lane, std::initializer_list<Awaited> all) {
  const auto each = [&](auto&& f) {
    for (const auto& [launch, parts] : all)
      for (size_t other = 0; other < lane_count; ++other)
        if ((*parts)[other] >= 0 && !f(*launch, static_cast<uint32_t>((*parts)[other]), static_cast<Lane>(other))) return false;
    return true;
  };
  const bool possible = each([&](const Launch& launch, uint32_t part, Lane other) {
    if (part >= launch.next) return false;
    return (lane != Lane::host && other != Lane::host) || launch.program->done(launch, part);
  });
  if (!possible) return false;
  if (lane == Lane::host) return true;
  return each([&](const Launch& launch, uint32_t part, Lane other) {
    const GpuProgram& program = *launch.program;
    if (other != Lane::host)
      check(cudaStreamWaitEvent(program.context_.stream(lane), program.events_[part], 0), "wait for an event");
    return true;
  });
}

bool GpuProgram::done(const Launch& launch, uint32_t part) const {
  if (schedule_.parts[part].lane == Lane::host) return context_.host->done() >= launch.numbers[part];
  const Status status = look(cudaEventQuery(events_[part]));
  if (status == cudaErrorNotReady) return false;
  check(status, "what a run left on its way");
  return true;
}

bool GpuProgram::settled(const Launch& launch) const {
  ByLane last = no_lane;
  for (const TailPart& part : schedule_.tail) last[static_cast<size_t>(part.lane)] = static_cast<int32_t>(part.part);
  return std::ranges::all_of(last, [&](int32_t part) { return part < 0 || done(launch, static_cast<uint32_t>(part)); });
}

void GpuProgram::segment(const Part& part, Launch& launch) {
  for (uint32_t i = part.begin; i < part.end; ++i) {
    launch.instruction = i;
    if (context_.group->aborted()) throw Aborted();
    if ((i - part.begin) % crumb_distance == 0) crumb(i);
    operate(i, launch);
  }
}

void GpuProgram::operate(uint32_t i, const Launch& launch) {
  const ProgramInstruction& instruction = program_->instructions[i];
  const abi::Opcode opcode = instruction.op->opcode;
  const Call& call = operations_[i].call;
  begin_operation(i, launch);
  if (call.stream == context_.download || call.stream == context_.upload)
    check(cudaMemcpyAsync(call.out(0).data, call.in(0).data, instruction.outputs[0]->place.bytes(), cudaMemcpyDefault, call.stream),
          "copy between host and device");
  else if (instruction.collective) enqueue_collective(opcode, call, nullptr, nullptr);
  else kernel_table().kernels[static_cast<size_t>(opcode)](call);
  end_operation(i, launch);
}

void GpuProgram::begin_operation(uint32_t i, const Launch& launch) {
  if (launch.around) check(cudaEventRecord((*launch.around)[2 * i], operations_[i].call.stream), "event");
}

void GpuProgram::end_operation(uint32_t i, const Launch& launch) {
  const Stream stream = operations_[i].call.stream;
  if (launch.around) check(cudaEventRecord((*launch.around)[2 * i + 1], stream), "event");
  if (launch.check && stream != context_.download) find_non_finite(i);
  if (launch.pace == Pace::step) settle();
}

void GpuProgram::post(uint32_t i, Launch& launch) {
  launch.numbers[launch.next] =
      context_.host->post({&program_->instructions[i], i, launch.scalars, launch.news, launch.check});
}

void GpuProgram::announce(uint32_t i, const Launch& launch) {
  if (launch.careful()) {
    settle();
    *context_.meeting = true;
    context_.group->agree(context_.rank, announcement_of(collective_call(program_->instructions[i])));
    if (!context_.communicator) context_.communicator = context_.meet();
  }
  store_word(context_.communication, &context_.crumbs->meeting, 1);
  begin_operation(i, launch);
}

bool GpuProgram::collective(uint32_t i, const Launch& launch) {
  context_.held_up = !context_.communicator->enqueue(program_->instructions[i].op->opcode, operations_[i].call);
  if (context_.held_up) {
    const Status status = look(cudaStreamQuery(context_.compute));
    if (status != cudaErrorNotReady) check(status, "what a collective waits for");
    // Who still computes does not wait for others; of a stream that waits the crumb tells.
    if (!launch.careful()) *context_.meeting = status == success;
    return false;
  }
  end_operation(i, launch);
  store_word(context_.communication, &context_.crumbs->meeting, 0);
  if (launch.careful()) {
    settle();
    // Nor is what NCCL tried on the way an error that the next launch should find.
    cudaGetLastError();
    if (context_.group->aborted()) throw Aborted();
  }
  *context_.meeting = false;
  return true;
}

void GpuProgram::find_non_finite(uint32_t i) {
  const Stream stream = operations_[i].call.stream;
  uint32_t* const first = &context_.control->non_finite;
  for (const Tensor* output : program_->instructions[i].output_tensors) {
    if (!output) continue;
    switch (output->dtype) {
      case DType::f32: search<uint32_t>(*output, 0x7f800000u, first, i, stream); break;
      case DType::f64: search<uint64_t>(*output, 0x7ff0000000000000u, first, i, stream); break;
      case DType::bf16: search<uint16_t>(*output, 0x7f80u, first, i, stream); break;
      case DType::f16: search<uint16_t>(*output, 0x7c00u, first, i, stream); break;
      default: break;
    }
  }
}

void GpuProgram::crumb(uint32_t i) {
  launch(say_done, dim3(1), dim3(1), 0, context_.compute, context_.control, &context_.crumbs->done, i);
}

void GpuProgram::settle() { check(context_.drain(), "end of what was enqueued"); }

std::string GpuProgram::name_of(uint32_t first, bool only) const {
  if (first >= operations_.size()) return "the end of a run, expected it";
  uint32_t last = first;
  for (const Part& part : schedule_.parts)
    if (!only && part.lane == Lane::compute && part.begin <= first && first < part.end)
      last = std::min(first + crumb_distance, part.end) - 1;
  const auto name = [&](uint32_t i) { return std::string(program_->instructions[i].op->name); };
  if (first == last) return "instruction " + std::to_string(first) + " (" + name(first) + "), expected it";
  return "instructions " + std::to_string(first) + " to " + std::to_string(last) + " (" + name(first) + " to " +
         name(last) + "), expected them";
}

bool GpuProgram::hosted() const {
  return std::ranges::any_of(schedule_.parts, [](const Part& part) { return part.lane == Lane::host; });
}

void GpuProgram::capture(Pace pace) {
  const auto meet = [&] {
    if (!meets_) return;
    settle();
    *context_.meeting = true;
    context_.group->barrier();
    *context_.meeting = false;
  };
  // Nobody allocates for a graph while a collective of another waits for him.
  meet();
  if (pace == Pace::whole) {
    whole_ = captured_from("a run with its collectives", [&] { play(); });
  } else {
    for (size_t i = 0; i < schedule_.parts.size(); ++i) {
      const Part& part = schedule_.parts[i];
      if (part.lane != Lane::compute || part.end - part.begin < least_graph) continue;
      const std::string what = "instructions " + std::to_string(part.begin) + " to " + std::to_string(part.end - 1);
      graphs_[i] = captured_from(what, [&] {
        Launch launch{this, Pace::each};
        segment(part, launch);
      });
    }
  }
  meet();
  captured_ = true;
}

void GpuProgram::play() {
  std::vector<Stream> others;
  for (const Lane lane : {Lane::communication, Lane::download, Lane::upload})
    if (schedule_.last[static_cast<size_t>(lane)] >= 0) others.push_back(context_.stream(lane));
  const Event fork = make_event();
  check(cudaEventRecord(fork, context_.compute), "event");
  for (const Stream stream : others) check(cudaStreamWaitEvent(stream, fork, 0), "wait for an event");
  if (start_) check(cudaEventRecord(start_, context_.compute), "event");
  Launch launch{this, Pace::whole};
  launch.numbers.resize(schedule_.parts.size());
  while (launch.next < schedule_.parts.size()) {
    if (context_.group->aborted()) throw Aborted();
    put(launch, nullptr);
  }
  for (const Stream stream : others) {
    const Event join = make_event();
    check(cudaEventRecord(join, stream), "event");
    check(cudaStreamWaitEvent(context_.compute, join, 0), "wait for an event");
  }
}

template <class F>
GraphExec GpuProgram::captured_from(const std::string& what, F&& body) {
  const std::string named = "capture of " + what + " (DEEPTROUPE_GRAPH=0 does without)";
  check(cudaStreamBeginCapture(context_.compute, cudaStreamCaptureModeThreadLocal), named.c_str());
  std::exception_ptr failure;
  try {
    body();
  } catch (...) {
    failure = std::current_exception();
  }
  cudaGraph_t captured = nullptr;
  const Status status = cudaStreamEndCapture(context_.compute, &captured);
  const Graph owned(captured);
  if (failure) std::rethrow_exception(failure);
  check(status, named.c_str());
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, owned, 0), named.c_str());
  GraphExec graph(exec);
  check(cudaGraphUpload(exec, context_.compute), named.c_str());
  return graph;
}

}  // namespace deeptroupe::gpu
