// The functions of the module byhand_cuda_on_cpu that are not kernels.
#include <pybind11/pybind11.h>

#include <new>

#include "core/device.h"
#include "emulator/block.h"
#include "threads/threads.h"

namespace byhand {

// Adds last_block(), how many threads a block of the last launch had;
// schedule() and set_schedule(text), see schedule.h; num_threads() and set_num_threads(n).
void bind_device(pybind11::module_& module) {
    module.def("last_block", &emulator::last_block);
    module.def("schedule", &emulator::schedule_text);
    module.def("set_schedule", &emulator::set_schedule);
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads);
}

int current_device() { return 0; }

void* device_memory(const char*, std::size_t bytes) {
    return ::operator new(bytes, std::align_val_t{256});
}

bool is_captured(Stream) { return false; }

}  // namespace byhand
