// The part of a kernel's static device memory that a launch may use for partial sums.
#pragma once

#include "core/array.h"

namespace byhand {

inline constexpr int kSlots = 16;

// Kernels allocate nothing, but a sum over a whole array needs memory between its two launches.
// That memory is static and has kSlots parts, one for each stream: launches of one stream run one
// after another, so its part is free again at the next call. A new stream gets the least recently
// used slot, so at most kSlots streams of one device may use these kernels at the same time. A
// captured graph keeps the slot of the stream it was captured on and must be launched on that
// stream.
int slot_of(Stream stream);

}  // namespace byhand
