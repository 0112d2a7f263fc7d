// Device memory for what is between two launches, too much of it to be static.
#pragma once

#include <cstddef>

#include "core/array.h"

namespace byhand {

inline constexpr std::size_t kWorkspace = std::size_t{32} << 20;

// kWorkspace bytes of the current device, aligned to 256, for the next launches on this stream: one
// piece for each slot of slots.h. It is taken the first time, and kept. RuntimeError, naming
// `name`, where there is no room, and where it would be taken while a CUDA graph is captured.
void* workspace_of(const char* name, Stream stream);

// The same error for anything else that is made once: `what` is not there yet.
void refuse_capture(const char* name, const char* what, Stream stream);

}  // namespace byhand
