// What Python asks of the CUDA driver before it picks this back end, and what host code needs of
// it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>

#include "core/array.h"

namespace byhand {

// Adds to the module:
//   device_count()       -> (number of usable devices, reason); never raises, and the reason is
//                           empty unless the number is 0
//   driver_version()     -> the CUDA version of the driver, 13000 for 13.0, or 0 without one
//   runtime_version()    -> the CUDA version this module was built with
//   device_properties(device=0) -> dict; RuntimeError saying why without such a device
void bind_device(pybind11::module_& module);

// The CUDA device of the calling thread; 0 where there is none.
int current_device();

// Adds gemm() and set_gemm(text), see cublaslt.h, and set_cublaslt_paths(files).
void bind_gemm(pybind11::module_& module);

// Memory of the current device that is never given back. RuntimeError, naming `name`, without it.
void* device_memory(const char* name, std::size_t bytes);

// Whether what is launched there goes to a CUDA graph instead of running.
bool is_captured(Stream stream);

}  // namespace byhand
