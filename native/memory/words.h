// Words of memory that streams write and wait for, without a multiprocessor: the front of the device does it, between two commands.
#pragma once

#include "../../kernels/gpu/gpu.h"

namespace deeptroupe::gpu {

/// Whether the driver and a device can do it.
bool streams_have_words(int device);

/// Stores `value` at `word`, an address of the device, when all that the stream was given before is done and can be seen. Throws Error.
void store_word(Stream stream, uint64_t* word, uint64_t value);

/// The stream goes on when the word is `least` or more. Throws Error.
void await_word(Stream stream, const uint64_t* word, uint64_t least);

}  // namespace deeptroupe::gpu
