// Which piece of a kernel's static device memory a launch may use for its partial sums.
#pragma once

#include "core/array.h"

namespace byhand {

inline constexpr int kSlots = 16;

// Kernels allocate nothing, but a sum over a whole array needs room between its two launches. That
// room is static device memory in kSlots pieces, one a stream: launches of one stream follow one
// another, so it is free again when the stream asks next. The slot least recently used goes to a
// new stream, so at most kSlots streams may be at it at the same time on one device. A captured
// graph keeps the slot of the stream it was captured on: launch it there.
int slot_of(Stream stream);

}  // namespace byhand
