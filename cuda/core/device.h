// The queries of the CUDA driver that Python makes before it chooses this back end, and those that
// host code makes.
#pragma once

#include <cstddef>

#include "core/array.h"

namespace pybind11 {
class module_;
}

namespace byhand {

// Adds to the module:
//   device_count()       -> (number of usable devices, reason); never raises. The reason is empty
//                           unless the number is 0
//   driver_version()     -> the CUDA version of the driver, 13000 for 13.0, or 0 without one
//   runtime_version()    -> the CUDA version this module was built with
//   device_properties(device=0) -> dict; RuntimeError with the reason if there is no such device
void bind_device(pybind11::module_& module);

// The CUDA device of the calling thread; 0 without a device.
int current_device();

// Adds gemm() and set_gemm(text), see cublaslt.h, and set_cublaslt_paths(files).
void bind_gemm(pybind11::module_& module);

// Allocates memory of the current device that is never freed. RuntimeError, naming `name`, if that
// fails.
void* device_memory(const char* name, std::size_t bytes);

// Whether launches on this stream are captured into a CUDA graph.
bool is_captured(Stream stream);

}  // namespace byhand
