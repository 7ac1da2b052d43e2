#include "run-slot.h"

#include <algorithm>
#include <cstddef>

namespace deeptroupe::gpu {
namespace {

static_assert(offsetof(Control, scalars) == Control::head_bytes);

/// Calls f(range, the bytes of all ranges before it): in a slot they lie end to end.
template <class F>
void each_range(const std::vector<IoRange>& ranges, F&& f) {
  uint64_t at = 0;
  for (const IoRange& range : ranges) {
    f(range, at);
    at += range.bytes;
  }
}

}  // namespace

RunSlot::RunSlot(size_t io_bytes) : memory_(make_pinned(2 * sizeof(Control) + 2 * io_bytes)), done_(make_event()) {
  std::byte* const at = static_cast<std::byte*>(static_cast<void*>(memory_));
  told_ = reinterpret_cast<Control*>(at);
  answered_ = told_ + 1;
  io_read_ = at + 2 * sizeof(Control);
  io_written_ = io_read_ + io_bytes;
}

void RunSlot::tell(const RankContext& context, const RunRequest& request, const IoUse& io, uint64_t before,
                   std::byte* mirror) {
  told_->fault = {};
  told_->non_finite = all_finite;
  told_->unused = 0;
  told_->before = before;
  std::ranges::copy(request.scalars, told_->scalars);
  const size_t bytes = Control::head_bytes + request.scalars.size() * sizeof(double);
  check(cudaMemcpyAsync(context.control, told_, bytes, cudaMemcpyHostToDevice, context.compute), "copy of scalars");
  each_range(io.read, [&](const IoRange& range, uint64_t at) {
    std::copy_n(request.io.data() + at, range.bytes, io_read_ + at);
    check(cudaMemcpyAsync(mirror + range.offset, io_read_ + at, range.bytes, cudaMemcpyHostToDevice, context.compute),
          "copy of io");
  });
}

void RunSlot::ask(const RankContext& context, const IoUse& io, const std::byte* mirror) {
  check(cudaMemcpyAsync(answered_, context.control, Control::head_bytes, cudaMemcpyDeviceToHost, context.compute),
        "copy of a verdict");
  each_range(io.written, [&](const IoRange& range, uint64_t at) {
    check(cudaMemcpyAsync(io_written_ + at, mirror + range.offset, range.bytes, cudaMemcpyDeviceToHost, context.compute),
          "copy of io");
  });
  check(cudaEventRecord(done_, context.compute), "event");
}

Status RunSlot::status() const { return look(cudaEventQuery(done_)); }

std::vector<IoBytes> RunSlot::io_written(const IoUse& io) const {
  std::vector<IoBytes> written;
  each_range(io.written, [&](const IoRange& range, uint64_t at) {
    written.push_back({range.offset, {io_written_ + at, io_written_ + at + range.bytes}});
  });
  return written;
}

}  // namespace deeptroupe::gpu
