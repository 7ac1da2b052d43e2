// A unit is a run of parameters stored side by side and sharded together. A rank works on its slice: elements first to last of it.
#pragma once

#include "check.h"

namespace deeptroupe::DT_ISA {

struct Slice {
  int64_t first;
  int64_t last;
};

/// This rank's slice of a unit of `length` elements in `shards` equal parts.
DT_INLINE Slice slice_of(const Call& call, int64_t length, int64_t shards) {
  const int64_t size = length / shards;
  return shards > 1 ? Slice{call.rank * size, (call.rank + 1) * size} : Slice{0, length};
}

/// Where element 0 of the unit would lie: the operand is the whole unit, or this rank's slice of it.
template <class T = float>
DT_INLINE T* unit_base(const char* op, const char* name, const Tensor& tensor, int64_t length, Slice slice) {
  T* data = data_of<T>(op, name, tensor);
  const int64_t got = tensor.elements();
  if (got == length) return data;
  if (got != slice.last - slice.first) {
    fail("%s: elements of %s, expected %lld or %lld, got %lld", op, name, static_cast<long long>(length),
         static_cast<long long>(slice.last - slice.first), static_cast<long long>(got));
  }
  return data - slice.first;
}

}  // namespace deeptroupe::DT_ISA
