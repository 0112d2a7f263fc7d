// Device memory for intermediate results between two launches that are too large for static memory.
#pragma once

#include <cstddef>

#include "core/array.h"

namespace byhand {

inline constexpr std::size_t kWorkspace = std::size_t{32} << 20;

// kWorkspace bytes of the current device, aligned to 256, for the next launches on this stream: one
// workspace for each slot of slots.h. It is allocated at the first call and kept. RuntimeError,
// naming `name`, if the allocation fails or would happen while a CUDA graph is captured.
void* workspace_of(const char* name, Stream stream);

// Throws that error if the stream is being captured: `what` must be created, which must not happen
// then.
void refuse_capture(const char* name, const char* what, Stream stream);

}  // namespace byhand
