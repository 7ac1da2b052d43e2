// Puts programs onto the streams of a GPU.
#include "gpu-program.h"

#include <algorithm>

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

__global__ void say_meeting(volatile uint64_t* meeting, uint64_t value) {
  *meeting = value;
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

GpuProgram::GpuProgram(std::shared_ptr<const ScheduledProgram> program, Lane& lane)
    : program_(std::move(program)),
      lane_(lane),
      meets_(lane.several() && std::ranges::any_of(program_->instructions, &ProgramInstruction::collective)) {
  const std::vector<ProgramInstruction>& instructions = program_->instructions;
  operations_.reserve(instructions.size());
  for (size_t i = 0; i < instructions.size(); ++i) {
    const ProgramInstruction& instruction = instructions[i];
    Operation& operation = operations_.emplace_back();
    for (const uint32_t slot : instruction.scalars) operation.scalars.push_back(lane.control->scalars + slot);
    Call& call = operation.call;
    call = {};
    call.inputs = instruction.input_tensors.data();
    call.outputs = instruction.output_tensors.data();
    call.attributes = instruction.attributes;
    call.scalars = operation.scalars.data();
    if (instruction.workspace) {
      call.workspace = instruction.workspace->tensor.as<std::byte>();
      call.workspace_bytes = instruction.workspace->place.bytes();
    }
    call.stream = instruction.collective && lane.several() ? lane.communication : lane.compute;
    call.device = &lane.properties;
    call.products = lane.products.get();
    call.fault = &lane.control->fault;
    call.instruction = static_cast<unsigned>(i);
    call.rank = lane.rank;
    call.ranks = lane.ranks;
  }
  for (int i = 0; i < program_->schedule.events; ++i) events_.push_back(make_event());
  graphs_.resize(program_->schedule.parts.size());
}

void GpuProgram::enqueue(const Options& options) {
  ++runs_;
  instruction_ = 0;
  if (options.pace == Pace::replay && whole_) {
    if (lane_.group->aborted()) throw Aborted();
    check(cudaGraphLaunch(whole_, lane_.compute), "launch of a graph with collectives");
  } else {
    play(options);
  }
}

void GpuProgram::play(const Options& options) {
  const Schedule& schedule = program_->schedule;
  if (lane_.group->aborted()) throw Aborted();
  if (schedule.start >= 0) check(cudaEventRecord(events_[schedule.start], lane_.compute), "event");
  for (size_t i = 0; i < schedule.parts.size(); ++i) {
    const Part& part = schedule.parts[i];
    const Stream stream = part.collective ? lane_.communication : lane_.compute;
    instruction_ = part.begin;
    if (lane_.group->aborted()) throw Aborted();
    if (part.wait >= 0) check(cudaStreamWaitEvent(stream, events_[part.wait], 0), "wait for an event");
    if (part.collective) collective(part, options);
    else if (options.pace == Pace::replay && graphs_[i]) check(cudaGraphLaunch(graphs_[i], stream), "launch of a graph");
    else segment(part, options);
    if (part.record >= 0) check(cudaEventRecord(events_[part.record], stream), "event");
  }
  if (schedule.finish >= 0) check(cudaStreamWaitEvent(lane_.compute, events_[schedule.finish], 0), "wait for an event");
  crumb(static_cast<uint32_t>(operations_.size()));
}

void GpuProgram::segment(const Part& part, const Options& options) {
  for (uint32_t i = part.begin; i < part.end; ++i) {
    instruction_ = i;
    if (lane_.group->aborted()) throw Aborted();
    if ((i - part.begin) % crumb_distance == 0) crumb(i);
    operate(i, options);
  }
}

void GpuProgram::operate(uint32_t i, const Options& options) {
  const abi::Opcode opcode = program_->instructions[i].op->opcode;
  const Call& call = operations_[i].call;
  if (options.around) check(cudaEventRecord((*options.around)[2 * i], call.stream), "event");
  if (!program_->instructions[i].collective) kernel_table().kernels[static_cast<size_t>(opcode)](call);
  else if (!lane_.several()) enqueue_collective(opcode, call, nullptr);
  else lane_.communicator->enqueue(opcode, call);
  if (options.around) check(cudaEventRecord((*options.around)[2 * i + 1], call.stream), "event");
  if (options.check) find_non_finite(i);
  if (options.pace == Pace::step) settle();
}

void GpuProgram::collective(const Part& part, const Options& options) {
  const bool careful = options.pace == Pace::careful || options.pace == Pace::step;
  if (careful) {
    settle();
    *lane_.meeting = true;
    lane_.group->agree(lane_.rank, announcement_of(collective_call(program_->instructions[part.begin])));
    if (!lane_.communicator) lane_.communicator = lane_.meet();
  }
  launch(say_meeting, dim3(1), dim3(1), 0, lane_.communication, &lane_.crumbs->meeting, 1);
  operate(part.begin, options);
  launch(say_meeting, dim3(1), dim3(1), 0, lane_.communication, &lane_.crumbs->meeting, 0);
  if (!careful) return;
  settle();
  *lane_.meeting = false;
  // Nor is what NCCL tried on the way an error that the next launch should find.
  cudaGetLastError();
  if (lane_.group->aborted()) throw Aborted();
}

void GpuProgram::find_non_finite(uint32_t i) {
  const Stream stream = operations_[i].call.stream;
  uint32_t* const first = &lane_.control->non_finite;
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
  launch(say_done, dim3(1), dim3(1), 0, lane_.compute, lane_.control, &lane_.crumbs->done, i);
}

void GpuProgram::settle() {
  check(cudaStreamSynchronize(lane_.compute), "end of what was enqueued");
  if (lane_.several()) check(cudaStreamSynchronize(lane_.communication), "end of a collective");
}

std::string GpuProgram::name_of(uint32_t first, bool only) const {
  if (first >= operations_.size()) return "the end of a run, expected it";
  uint32_t last = first;
  for (const Part& part : program_->schedule.parts)
    if (!only && !part.collective && part.begin <= first && first < part.end)
      last = std::min(first + crumb_distance, part.end) - 1;
  const auto name = [&](uint32_t i) { return std::string(program_->instructions[i].op->name); };
  if (first == last) return "instruction " + std::to_string(first) + " (" + name(first) + "), expected it";
  return "instructions " + std::to_string(first) + " to " + std::to_string(last) + " (" + name(first) + " to " +
         name(last) + "), expected them";
}

void GpuProgram::capture(bool whole) {
  const Schedule& schedule = program_->schedule;
  const auto meet = [&] {
    if (!meets_) return;
    settle();
    *lane_.meeting = true;
    lane_.group->barrier();
    *lane_.meeting = false;
  };
  // Nobody allocates for a graph while a collective of another waits for him.
  meet();
  if (whole && meets_) {
    whole_ = captured_from("a run with its collectives", [&] { play({}); });
  } else {
    for (size_t i = 0; i < schedule.parts.size(); ++i) {
      const Part& part = schedule.parts[i];
      if (part.collective || part.end - part.begin < least_graph) continue;
      const std::string what = "instructions " + std::to_string(part.begin) + " to " + std::to_string(part.end - 1);
      graphs_[i] = captured_from(what, [&] { segment(part, {}); });
    }
  }
  meet();
  captured_ = true;
}

template <class F>
GraphExec GpuProgram::captured_from(const std::string& what, F&& body) {
  const std::string named = "capture of " + what + " (DEEPTROUPE_GRAPH=0 does without)";
  check(cudaStreamBeginCapture(lane_.compute, cudaStreamCaptureModeThreadLocal), named.c_str());
  std::exception_ptr failure;
  try {
    body();
  } catch (...) {
    failure = std::current_exception();
  }
  cudaGraph_t captured = nullptr;
  const Status status = cudaStreamEndCapture(lane_.compute, &captured);
  const Graph owned(captured);
  if (failure) std::rethrow_exception(failure);
  check(status, named.c_str());
  cudaGraphExec_t exec = nullptr;
  check(cudaGraphInstantiate(&exec, owned, 0), named.c_str());
  GraphExec graph(exec);
  check(cudaGraphUpload(exec, lane_.compute), named.c_str());
  return graph;
}

}  // namespace deeptroupe::gpu
