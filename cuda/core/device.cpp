#include "core/device.h"

#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace byhand {
namespace {

std::string describe(cudaError_t error) {
    return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Without a driver a query leaves an error behind, which the next launch would report.
cudaError_t clear(cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();
    return error;
}

py::tuple device_count() {
    int count = 0;
    const cudaError_t error = clear(cudaGetDeviceCount(&count));
    if (error != cudaSuccess) return py::make_tuple(0, describe(error));
    return py::make_tuple(count, count == 0 ? "the driver lists no device" : "");
}

int driver_version() {
    int version = 0;
    return clear(cudaDriverGetVersion(&version)) == cudaSuccess ? version : 0;
}

int runtime_version() {
    int version = 0;
    return clear(cudaRuntimeGetVersion(&version)) == cudaSuccess ? version : 0;
}

int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    const cudaError_t error = clear(cudaDeviceGetAttribute(&value, name, device));
    if (error != cudaSuccess) {
        throw std::runtime_error("device_properties: device " + std::to_string(device) + ": " +
                                 describe(error));
    }
    return value;
}

py::dict device_properties(int device) {
    py::dict result;
    result["compute_capability"] =
        py::make_tuple(attribute(cudaDevAttrComputeCapabilityMajor, device),
                       attribute(cudaDevAttrComputeCapabilityMinor, device));
    result["multiprocessors"] = attribute(cudaDevAttrMultiProcessorCount, device);
    result["l2_bytes"] = attribute(cudaDevAttrL2CacheSize, device);
    result["shared_bytes_per_block"] = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceProp properties;
    if (clear(cudaGetDeviceProperties(&properties, device)) == cudaSuccess) {
        result["name"] = properties.name;
        result["memory_bytes"] = properties.totalGlobalMem;
    }
    return result;
}

}  // namespace

int current_device() {
    int device = 0;
    return clear(cudaGetDevice(&device)) == cudaSuccess ? device : 0;
}

void* device_memory(const char* name, std::size_t bytes) {
    void* memory = nullptr;
    const cudaError_t error = clear(cudaMalloc(&memory, bytes));
    if (error == cudaSuccess) return memory;
    throw std::runtime_error(std::string(name) + ": " + describe(error));
}

bool is_captured(Stream stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    clear(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.handle), &status));
    return status != cudaStreamCaptureStatusNone;
}

void bind_device(py::module_& module) {
    module.def("device_count", &device_count);
    module.def("driver_version", &driver_version);
    module.def("runtime_version", &runtime_version);
    module.def("device_properties", &device_properties, py::arg("device") = 0);
}

}  // namespace byhand
