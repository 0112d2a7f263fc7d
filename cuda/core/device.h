// What Python asks of the CUDA driver before it picks this back end.
#pragma once

#include <pybind11/pybind11.h>

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

}  // namespace byhand
