// Memory under way: a thread asks for packs of 16 bytes before it works on earlier ones, and they come into its own places in shared
// memory, so that many are under way without registers. A thread reads only what it asked for, so nobody waits for another. Elements
// that are no whole pack, and all of them where there is no such copy (HIP), are there as soon as they are asked for.
#pragma once

#include "mma.h"
#include "pack.h"

namespace deeptroupe::gpu {

/// A thread's places for packs of N elements. Neighbouring places of a lane are a warp's packs apart, so a warp's accesses meet no conflict.
template <class T, int N>
class Places {
 public:
  /// `count` for each thread of the block, of which this one has number `thread`.
  __device__ Places(void* shared, int thread, int count)
      : own_(static_cast<Pack<T, N>*>(shared) + thread / warp * warp * count + thread % warp) {
#if !defined(__HIP__)
    address_ = shared_address(own_);
    // Not to be computed anew at each use.
    asm volatile("" : "+r"(address_));
#endif
  }

  /// Asks for the N elements at `from`. What was in the place has been read.
  __device__ void ask(int place, const T* from) const {
#if !defined(__HIP__)
    if constexpr (sizeof(Pack<T, N>) == 16) return copy_async(address_ + place * static_cast<int>(warp * sizeof(Pack<T, N>)), from);
#endif
    put(place, load_pack<N>(from));
  }
  __device__ void put(int place, const Pack<T, N>& pack) const { store_pack(own_[place * warp].at, pack); }
  /// What is there, or came and was waited for.
  __device__ Pack<T, N> get(int place) const { return load_pack<N>(own_[place * warp].at); }

 private:
  Pack<T, N>* own_;
#if !defined(__HIP__)
  uint32_t address_;
#endif
};

/// Ends a group of requests.
__device__ inline void end_asking() {
#if !defined(__HIP__)
  commit_copies();
#endif
}

/// Waits until all groups but the `younger` last ones have come.
template <int younger>
__device__ inline void wait_asked() {
#if !defined(__HIP__)
  wait_copies<younger>();
#endif
}

}  // namespace deeptroupe::gpu
