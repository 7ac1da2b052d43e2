// The thread of a rank on a GPU.
#include "gpu-executor.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>

namespace deeptroupe::gpu {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

double seconds_of(Clock::time_point time) { return std::chrono::duration<double>(time.time_since_epoch()).count(); }

bool debugs(const char* what) {
  const char* const list = std::getenv("DEEPTROUPE_DEBUG");
  return list && ("," + std::string(list) + ",").find("," + std::string(what) + ",") != std::string::npos;
}

Graphs wanted_graphs() {
  const char* const value = std::getenv("DEEPTROUPE_GRAPH");
  const std::string wanted = value ? value : "1";
  if (wanted == "0") return Graphs::none;
  if (wanted == "nccl") return Graphs::whole;
  if (wanted == "1" || wanted.empty()) return Graphs::segments;
  throw Error("gpu: DEEPTROUPE_GRAPH, expected 0, 1 or nccl, got " + wanted);
}

}  // namespace

GpuExecutor::GpuExecutor(Group& group, GpuDevice& device, int rank, int threads, std::vector<int> cores)
    : Executor(group, rank),
      device_(device),
      step_(debugs("sync")),
      threads_(threads),
      cores_(std::move(cores)),
      opened_(opening_.get_future().share()) {
  Executor::start();
}

// From JavaScript's threads.

void GpuExecutor::call(const char* operation, std::function<void()> body) {
  std::packaged_task<void()> task(std::move(body));
  std::future<void> result = task.get_future();
  {
    std::lock_guard lock(mutex_);
    if (!accepting_) throw closed(operation);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
  result.get();
}

std::shared_ptr<const ScheduledProgram> GpuExecutor::load(std::span<const std::byte> bytes) {
  auto program = std::make_shared<ScheduledProgram>();
  {
    std::shared_lock lock(group_.memory_mutex);
    const auto has_kernel = [](abi::Opcode opcode) {
      return kernel_table().kernels[static_cast<size_t>(opcode)] != nullptr;
    };
    const int ranks = group_.communicator.ranks();
    decode_program(*program, bytes, {group_.memory[rank_], "gpu", has_kernel, 256, rank_, ranks});
    if (program->scalar_count > most_scalars)
      throw ProgramError("program: scalars, expected at most " + std::to_string(most_scalars) + " on a GPU, got " +
                         std::to_string(program->scalar_count));
    program->places = {ranks > 1, device_.options().host_arenas};
    program->io = io_of(*program);
    program->tail = schedule_of(*program, program->places).tail;
  }
  call("load", [&] { programs_[program.get()] = std::make_unique<GpuProgram>(program, *context_); });
  return program;
}

void GpuExecutor::allocate(uint32_t arena) {
  {
    std::shared_lock lock(group_.memory_mutex);
    expect_free(arena);
  }
  std::byte* base = nullptr;
  call("allocate", [&] {
    DeviceMemory& memory = device_.memory(group_, rank_, sizeof(Control));
    if (on_host(arena)) {
      base = memory.reserve_host(arena, group_.bytes[arena], context_->host->pool());
      return;
    }
    base = memory.arena(arena);
    check(cudaMemsetAsync(base, 0, group_.bytes[arena], context_->copies), "zeros in an arena");
    check(cudaStreamSynchronize(context_->copies), "zeros in an arena");
  });
  std::unique_lock lock(group_.memory_mutex);
  expect_free(arena).adopt(base, group_.bytes[arena]);
}

void GpuExecutor::read(uint32_t arena, double offset, std::byte* target, size_t bytes) {
  const std::byte* source;
  {
    std::shared_lock lock(group_.memory_mutex);
    source = place("read", arena, offset, bytes);
    if (arena == io_arena) {
      std::copy_n(source, bytes, target);
      return;
    }
  }
  // Where nothing more is on its way to the host's memory, the caller copies it.
  call("read", [&] {
    if (!on_host(arena)) staging_->copy_out(source, target, bytes);
  });
  if (on_host(arena)) std::copy_n(source, bytes, target);
}

void GpuExecutor::write(uint32_t arena, double offset, const std::byte* source, size_t bytes) {
  std::byte* target;
  {
    std::shared_lock lock(group_.memory_mutex);
    target = place("write", arena, offset, bytes);
    if (arena == io_arena) {
      std::copy_n(source, bytes, target);
      return;
    }
  }
  call("write", [&] {
    if (!on_host(arena)) staging_->copy_in(source, target, bytes);
  });
  if (on_host(arena)) std::copy_n(source, bytes, target);
}

Progress GpuExecutor::progress() {
  std::lock_guard lock(progress_mutex_);
  if (!crumbs_) return last_progress_;
  const Progress done = *const_cast<const volatile uint64_t*>(&crumbs_->done);
  const bool meeting = meeting_ || *const_cast<const volatile uint64_t*>(&crumbs_->meeting) != 0;
  return 2 * done + meeting;
}

// On the rank's thread.

void GpuExecutor::serve() {
  // Sleeps end when they should, not 50 us later.
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  bool open_now = false;
  try {
    open();
    open_now = true;
    opening_.set_value();
  } catch (const Error& error) {
    opening_.set_exception(std::make_exception_ptr(MissingError(error.what())));
  } catch (...) {
    opening_.set_exception(std::current_exception());
  }
  while (open_now) {
    std::optional<std::packaged_task<void()>> task;
    std::optional<RunRequest> request;
    {
      std::unique_lock lock(mutex_);
      const auto startable = [&] { return tasks_.empty() && !queue_.empty() && can_start(queue_.front()); };
      // What JavaScript copies may be what a tail still works on.
      const auto servable = [&] { return !tasks_.empty() && idle(); };
      const auto busy = [&] { return servable() || startable() || graphs_go(); };
      if (idle()) wake_.wait(lock, [&] { return busy() || (finishing_ && queue_.empty()); });
      else if (!busy()) wake_.wait_for(lock, patience());
      if (servable()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      } else if (startable()) {
        request = std::move(queue_.front());
        queue_.pop_front();
      } else if (idle() && !graphs_go()) {
        break;
      }
    }
    if (graphs_go()) drop_graphs();
    if (task) (*task)();
    if (request) start(std::move(*request));
    proceed();
    poll();
  }
  close();
}

void GpuExecutor::drop_graphs() {
  for (const auto& [number, program] : programs_) program->drop_whole();
  whole_graphs_ = false;
}

void GpuExecutor::open() {
  graphs_ = wanted_graphs();
  check(cudaSetDevice(device_.number(rank_)), "cudaSetDevice");
  // A device that failed in an earlier run takes nothing more from this process.
  if (const Status status = look(cudaStreamQuery(nullptr)); status != success && status != cudaErrorNotReady)
    throw Error("gpu: device " + std::to_string(device_.number(rank_)) + ", expected one that works, got one that failed before (" +
                cudaGetErrorString(status) + "): only a new process can use it");
  context_ = std::make_unique<RankContext>();
  RankContext& context = *context_;
  context.rank = rank_;
  context.ranks = group_.communicator.ranks();
  cudaDeviceProp found;
  check(cudaGetDeviceProperties(&found, device_.number(rank_)), "properties of the device");
  context.properties = {found.major,
                     found.minor,
                     found.multiProcessorCount,
                     found.sharedMemPerBlockOptin,
                     static_cast<size_t>(found.l2CacheSize),
                     found.name};
  context.compute = make_stream(0);
  context.communication = make_stream(1);
  context.download = make_stream(0);
  context.upload = make_stream(0);
  context.copies = make_stream(0);
  const DeviceMemory& memory = device_.memory(group_, rank_, sizeof(Control));
  context.control = reinterpret_cast<Control*>(memory.extra());
  group_.memory[rank_][io_arena].adopt(memory.arena(io_arena), group_.bytes[io_arena]);
  device_.tell_met(rank_, 0);
  const GpuOptions& options = device_.options();
  context.products = make_products(context.properties, {options.tf32, options.gelu_epilogues, options.choices});
  context.group = &group_.communicator;
  if (options.host_arenas != 0) {
    const auto moved = [this] { wake_.notify_one(); };
    context.host = std::make_unique<HostLane>(threads_, cores_, *options.host_kernels, rank_, context.ranks, moved);
  }
  context.meeting = &meeting_;
  context.meet = [this, copies = wants_copies()] {
    std::vector<int> devices;
    for (int rank = 0; rank < group_.communicator.ranks(); ++rank) devices.push_back(device_.number(rank));
    const Members members{group_.communicator, group_.memory, devices, copies, device_.meeting_place()};
    return std::make_unique<GpuCommunicator>(members, rank_, [this] {
      { std::lock_guard lock(mutex_); }
      wake_.notify_one();
    });
  };

  const size_t io_bytes = (group_.bytes[io_arena] + 255) / 256 * 256;
  for (size_t i = 0; i < most_flights; ++i) slots_.emplace_back(io_bytes);
  staging_ = std::make_unique<Staging>(context.copies);
  anchor_ = make_event(cudaEventDefault);
  crumb_memory_ = make_pinned(sizeof(Crumbs));
  context.crumbs = on_device<Crumbs>(crumb_memory_);
  std::lock_guard lock(progress_mutex_);
  crumbs_ = new (crumb_memory_) Crumbs{};
}

void GpuExecutor::close() {
  {
    std::lock_guard lock(mutex_);
    accepting_ = false;
    // None but where the rank never opened.
    tasks_.clear();
  }
  if (context_) context_->drain();
  if (doubtful_) group_.keep(rank_, nothing_kept);
  const Progress last = progress();
  {
    std::lock_guard lock(progress_mutex_);
    last_progress_ = last & ~Progress{1};
    crumbs_ = nullptr;
  }
  leading_.reset();
  trailing_.reset();
  crossings_.clear();
  programs_.clear();
  around_.clear();
  staging_.reset();
  context_.reset();
  slots_.clear();
  anchor_ = {};
  crumb_memory_ = {};
}

Pace GpuExecutor::pace_of(const RunRequest& request, const GpuProgram& program) const {
  if (step_) return Pace::step;
  if (program.meets() && program.runs() == 0) return Pace::careful;
  // Where peers may be waiting in a collective, graphs are made at meetings only.
  const bool may_capture = graphs_ != Graphs::none && (program.meets() || !context_->several());
  if (!may_capture || request.check || request.profile || program.runs() == 0) return Pace::each;
  return graphs_ == Graphs::whole && program.meets() && !program.hosted() ? Pace::whole : Pace::replay;
}

bool GpuExecutor::can_start(const RunRequest& request) const {
  if (idle()) return true;
  if (leading_ || flights_.size() == most_flights || group_.communicator.aborted()) return false;
  const GpuProgram& program = *programs_.at(request.program.get());
  const Pace pace = pace_of(request, program);
  // Ranks meet, or wait for what they did, with nothing on its way.
  const bool graphs = pace == Pace::replay || pace == Pace::whole;
  if (request.profile || pace == Pace::step || pace == Pace::careful || (graphs && !program.captured())) return false;
  // One graph waits for no part of what a run left behind.
  if (pace == Pace::whole && trailing_ && !trailing_->whole()) return false;
  // The thread may come to wait inside a run of many launches that meets others, and they for news of the run before it.
  return flights_.empty() || !program.meets() || graphs;
}

void GpuExecutor::start(RunRequest request) {
  GpuProgram& program = *programs_.at(request.program.get());
  RunSlot& slot = slots_[started_++ % most_flights];
  Flight flight{std::move(request), &program, nullptr, &slot, instructions_, program.meets() ? ++meetings_ : 0};
  instructions_ += program.program().instructions.size();
  if (group_.communicator.aborted()) return end(flight, RunStatus::aborted, 0, group_.communicator.reason());
  flight.behind = trailing_ && trailing_->program->meets();
  if (flights_.empty()) waiting_since_ = Clock::now();
  settled_ = false;
  leading_ = flight.launch = std::make_shared<Launch>();
  leading_->program = &program;
  leading_->pace = pace_of(flight.request, program);
  flights_.push_back(std::move(flight));
  try {
    prepare(*leading_, flights_.back());
  } catch (const Aborted&) {
    give_up({});
  } catch (const std::exception& error) {
    give_up(error.what());
  }
}

void GpuExecutor::prepare(Launch& launch, const Flight& flight) {
  GpuProgram& program = *flight.program;
  if (!program.scheduled()) {
    std::vector<const Tail*> tails;
    for (const auto& [number, other] : programs_) tails.push_back(&other->program().tail);
    program.schedule(tails);
  }
  if ((launch.pace == Pace::replay || launch.pace == Pace::whole) && !program.captured()) program.capture(launch.pace);
  whole_graphs_ |= launch.pace == Pace::whole;
  const RunRequest& request = flight.request;
  launch.check = request.check;
  launch.scalars = std::make_shared<const std::vector<double>>(request.scalars);
  if (request.profile) {
    while (around_.size() < 2 * program.program().instructions.size()) around_.push_back(make_event(cudaEventDefault));
    launch.around = &around_;
    check(cudaEventRecord(anchor_, context_->compute), "event");
    check(cudaEventSynchronize(anchor_), "event");
    anchored_ = seconds_of(Clock::now());
  }
  launch.tell = [this, &request, slot = flight.slot, before = flight.before, io = &program.program().io] {
    slot->tell(*context_, request, *io, before, group_.memory[rank_][io_arena].base());
  };
  launch.ask = [this, slot = flight.slot, io = &program.program().io] {
    slot->ask(*context_, *io, group_.memory[rank_][io_arena].base());
  };
}

const Crossing& GpuExecutor::crossing(const GpuProgram& earlier, const GpuProgram& later) {
  const auto found = crossings_.find({&earlier, &later});
  if (found != crossings_.end()) return found->second;
  return crossings_[{&earlier, &later}] = crossing_of(earlier.schedule().tail, later.program(), later.schedule());
}

void GpuExecutor::proceed() {
  try {
    if (trailing_ && !trailing_->complete()) trailing_->program->proceed(*trailing_, nullptr);
    if (!leading_) return;
    if (trailing_ && !trailing_->whole()) {
      const Wake before{trailing_.get(), &crossing(*trailing_->program, *leading_->program)};
      leading_->program->proceed(*leading_, &before);
    } else {
      leading_->program->proceed(*leading_, nullptr);
    }
    if (!leading_->answered) return;
    // What is left of it has to know of the tail before as long as that lasts.
    if (trailing_ && !trailing_->whole() && !leading_->complete() && !trailing_->program->settled(*trailing_)) return;
    trailing_ = std::move(leading_);
    well_ = false;
  } catch (const Aborted&) {
    give_up({});
  } catch (const std::exception& error) {
    give_up(error.what());
  }
}

void GpuExecutor::give_up(std::string message) {
  meeting_ = false;
  context_->held_up = false;
  cudaGetLastError();
  if (const Status status = look(cudaStreamQuery(context_->compute)); status != success && status != cudaErrorNotReady)
    return break_down(status);
  if (!message.empty()) group_.communicator.abort("rank " + std::to_string(rank_) + ": " + message);
  // Runs before this one end first. The group is aborted: what waits for others is let go.
  const uint32_t instruction = leading_ ? leading_->instruction : 0;
  const bool begun = leading_ && leading_->begun;
  const bool led = leading_ != nullptr;
  if (context_->host) context_->host->drop();
  if (const Status status = context_->drain(); status != success) return break_down(status);
  poll();
  // The memory may not be what the run before should have made of it.
  if ((trailing_ && !well_) || !message.empty()) doubtful_ = true;
  leading_.reset();
  trailing_.reset();
  settled_ = true;
  if (!led || flights_.empty()) return;
  Flight flight = std::move(flights_.back());
  flights_.pop_back();
  if (message.empty()) return end(flight, RunStatus::aborted, begun ? instruction : 0, group_.communicator.reason());
  end(flight, RunStatus::failed, instruction, message);
}

void GpuExecutor::poll() {
  while (!flights_.empty() && flights_.front().launch != leading_) {
    const Status status = flights_.front().slot->status();
    if (status == cudaErrorNotReady) return;
    if (status != success) return break_down(status);
    meeting_ = waits_for_peers(flights_.front());
    if (meeting_) return;
    Flight flight = std::move(flights_.front());
    flights_.pop_front();
    waiting_since_ = Clock::now();
    complete(flight);
  }
  settle();
}

void GpuExecutor::settle() {
  if (!trailing_ || !trailing_->complete()) return;
  bool done = false;
  try {
    done = trailing_->whole() || trailing_->program->settled(*trailing_);
  } catch (const Error&) {
    return break_down(look(cudaStreamQuery(context_->compute)));
  }
  // After an abort collectives are let go that have not ended; what was done before is as it should be.
  if (done && !well_) well_ = !group_.communicator.aborted() || trailing_->whole() || trailing_->program->schedule().tail.empty();
  if (!done || leading_ || !flights_.empty()) return;
  if (!well_) doubtful_ = true;
  trailing_.reset();
  settled_ = true;
}

bool GpuExecutor::waits_for_peers(const Flight& flight) {
  if (flight.meeting == 0 || group_.communicator.aborted() || flight.slot->answer().fault.taken) return false;
  device_.tell_met(rank_, flight.meeting);
  return !device_.all_met(flight.meeting);
}

void GpuExecutor::complete(Flight& flight) {
  const ScheduledProgram& program = flight.program->program();
  const Control& answered = flight.slot->answer();
  const int64_t count = static_cast<int64_t>(program.instructions.size());
  // After an abort nobody knows what the collectives of this run brought, or those that the run before left on their way.
  if (flight.behind && group_.communicator.aborted()) doubtful_ = true;
  if (doubtful_ || (flight.program->meets() && group_.communicator.aborted()))
    return end(flight, RunStatus::aborted, count, group_.communicator.reason());
  if (const Fault& fault = answered.fault; fault.taken) {
    const std::string name = fault.instruction < count ? program.instructions[fault.instruction].op->name : "gpu";
    const std::string message = name + ": a value, expected 0 to " + std::to_string(fault.limit - 1) + ", got " +
                                std::to_string(fault.value);
    doubtful_ = true;
    group_.communicator.abort("rank " + std::to_string(rank_) + ": " + message);
    return end(flight, RunStatus::failed, fault.instruction, message);
  }
  RunReport report;
  if (const uint32_t first = std::min(answered.non_finite, flight.launch->news->non_finite.load()); first != all_finite)
    report.non_finite = first;
  if (flight.request.profile) {
    for (int64_t i = 0; i < 2 * count; ++i) {
      if (const double measured = flight.launch->news->seconds[i]; measured > 0) {
        report.seconds.push_back(measured);
        continue;
      }
      float milliseconds = 0;
      // Fails for no event that was passed, as all of them were.
      cudaEventElapsedTime(&milliseconds, anchor_, around_[i]);
      report.seconds.push_back(anchored_ + milliseconds / 1e3);
    }
  }
  report.io = flight.slot->io_written(program.io);
  flight.request.done(std::move(report));
}

void GpuExecutor::end(Flight& flight, RunStatus status, int64_t instruction, const std::string& message) {
  RunReport report;
  report.status = status;
  report.instruction = instruction;
  report.message = message;
  flight.request.done(std::move(report));
}

void GpuExecutor::break_down(Status status) {
  doubtful_ = true;
  if (context_->host) context_->host->drop();
  std::deque<Flight> flights;
  flights.swap(flights_);
  leading_.reset();
  trailing_.reset();
  settled_ = true;
  // The first that was not done when the device failed.
  const auto guilty = std::ranges::find_if(flights, [&](const Flight& flight) {
    return reached(flight) < flight.program->program().instructions.size();
  });
  for (auto flight = flights.begin(); flight != flights.end(); ++flight) {
    if (flight != (guilty == flights.end() ? flights.begin() : guilty)) continue;
    // Where each instruction was waited for, the one that was waited for last.
    const uint32_t first = step_ ? flight->launch->instruction : reached(*flight);
    const bool collecting = *const_cast<const volatile uint64_t*>(&crumbs_->meeting) != 0;
    const std::string message = "gpu: " + flight->program->name_of(first, step_) + " to end, got " +
                                cudaGetErrorString(status) + (collecting ? " while a collective was under way" : "");
    group_.communicator.abort("rank " + std::to_string(rank_) + ": " + message);
    end(*flight, RunStatus::failed, first, message);
    flight->program = nullptr;
  }
  for (Flight& flight : flights)
    if (flight.program) end(flight, RunStatus::aborted, reached(flight), group_.communicator.reason());
}

uint32_t GpuExecutor::reached(const Flight& flight) const {
  const uint64_t done = *const_cast<const volatile uint64_t*>(&crumbs_->done);
  const uint64_t count = flight.program->program().instructions.size();
  return static_cast<uint32_t>(done < flight.before ? 0 : std::min(done - flight.before, count));
}

/// Long runs are asked for less often: what is lost stays a small part of the run. Peers come soon.
std::chrono::nanoseconds GpuExecutor::patience() const {
  const auto waited = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - waiting_since_);
  return std::clamp<std::chrono::nanoseconds>(waited / 32, 5us, meeting_ || context_->held_up ? 10us : 100us);
}

}  // namespace deeptroupe::gpu
