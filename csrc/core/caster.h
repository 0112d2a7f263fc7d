// Converts Python's arrays to the views of array.h. An array's representation is checked here and
// nowhere else: kind of array, dtype, byte order, contiguity, writability, device, and alignment to
// its own elements (kernels that load 16 bytes at a time check for that alignment themselves, see
// cuda/core/pack.cuh). Each error names the kernel, the argument, what was expected and what came.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "core/array.h"

namespace byhand {

namespace py = pybind11;

#if defined(BYHAND_BACKEND_CUDA) && !defined(BYHAND_CUDA_ON_CPU)
inline constexpr bool kDeviceArrays = true;
#else
inline constexpr bool kDeviceArrays = false;
#endif
#if defined(BYHAND_BACKEND_CUDA)
inline constexpr bool kStoresBf16 = true;
#else
inline constexpr bool kStoresBf16 = false;
#endif

[[noreturn]] inline void fail(const char* kernel, const char* name, const std::string& what) {
    throw TypeError(std::string(kernel) + ": " + name + " " + what);
}

inline std::string text_of(py::handle object) { return py::cast<std::string>(py::str(object)); }

inline DType dtype_of(const py::dtype& dtype) {
    const char kind = dtype.kind();
    const auto size = dtype.itemsize();
    if (dtype.byteorder() == '>') return DType::none;
    if (kind == 'f' && size == 4) return DType::f32;
    if (kind == 'i' && size == 8) return DType::i64;
    if (kind == 'b' && size == 1) return DType::b8;
    if (size == 2 && text_of(dtype) == "bfloat16") return DType::bf16;
    return DType::none;
}

inline std::string describe(py::handle object) {
    if (py::hasattr(object, "dtype") && py::hasattr(object, "shape")) {
        return "a " + text_of(py::type::of(object).attr("__module__")) + " array of dtype " +
               text_of(object.attr("dtype")) + " and shape " + text_of(object.attr("shape"));
    }
    return text_of(py::type::of(object).attr("__name__"));
}

inline bool contiguous(const Array& a) {
    if (a.size() == 0) return true;  // the strides of an empty numpy array are arbitrary
    std::int64_t expected = 1;
    for (int d = a.ndim - 1; d >= 0; --d) {
        if (a.shape[d] != 1 && a.stride[d] != expected) return false;
        expected *= a.shape[d];
    }
    return true;
}

inline void fill_shape(Array& a, const char* kernel, const char* name, py::ssize_t ndim,
                       const py::ssize_t* shape, const py::ssize_t* strides, py::ssize_t itemsize) {
    if (ndim > kMaxDims) {
        fail(kernel, name,
             "has " + std::to_string(ndim) + " dimensions, at most " + std::to_string(kMaxDims) +
                 " are supported");
    }
    a.ndim = static_cast<int>(ndim);
    for (int d = 0; d < a.ndim; ++d) {
        a.shape[d] = shape[d];
        a.stride[d] = strides[d] / itemsize;
        if (strides[d] % itemsize != 0) fail(kernel, name, "has strides that cut its elements");
    }
    if (a.size() > 0 && reinterpret_cast<std::uintptr_t>(a.data) % itemsize != 0) {
        fail(kernel, name,
             "must begin at a multiple of " + std::to_string(itemsize) +
                 " bytes, as its dtype asks");
    }
}

// A numpy array, read through pybind11's view of numpy's C structures.
inline bool view_numpy(Array& a, py::handle object, const char* kernel, bool writable) {
    if (!py::isinstance<py::array>(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    a.dtype = dtype_of(array.dtype());
    if (a.dtype == DType::none || (a.dtype == DType::bf16 && !kStoresBf16)) {
        fail(kernel, a.name,
             std::string("must be float32, ") + (kStoresBf16 ? "bfloat16, " : "") +
                 "int64 or bool, got " + describe(object));
    }
    if (writable && !array.writeable()) fail(kernel, a.name, "is read-only");
    a.data = const_cast<void*>(array.data());
    fill_shape(a, kernel, a.name, array.ndim(), array.shape(), array.strides(), array.itemsize());
    return true;
}

// The CUDA device of the calling thread; defined in cuda/core/device.cpp.
int current_device();

// A cupy array, read through its attributes. cupy reuses freed memory in stream order, so an array
// may be released right after the launch, before the kernel has run.
inline bool view_cupy(Array& a, py::handle object, const char* kernel) {
    if (!py::hasattr(py::type::of(object), "__cuda_array_interface__")) return false;
    std::vector<py::ssize_t> shape, strides;
    const auto read = [&](const char* name) {
        std::vector<py::ssize_t> numbers;
        for (const py::handle number : object.attr(name)) {
            numbers.push_back(py::cast<py::ssize_t>(number));
        }
        return numbers;
    };
    int device = 0;
    py::ssize_t itemsize = 0;
    try {
        const py::object dtype = object.attr("dtype");
        if (!py::isinstance<py::dtype>(dtype)) return false;  // for example an array of PyTorch
        a.dtype = dtype_of(py::reinterpret_borrow<py::dtype>(dtype));
        itemsize = py::reinterpret_borrow<py::dtype>(dtype).itemsize();
        shape = read("shape");
        strides = read("strides");
        a.data = reinterpret_cast<void*>(py::cast<std::uintptr_t>(object.attr("data").attr("ptr")));
        device = py::cast<int>(object.attr("device").attr("id"));
    } catch (const py::error_already_set&) {
        return false;  // another library's array
    } catch (const py::cast_error&) {
        return false;
    }
    if (a.dtype == DType::none) {
        fail(kernel, a.name, "must be float32, bfloat16, int64 or bool, got " + describe(object));
    }
    if (const int current = current_device(); device != current) {
        fail(kernel, a.name,
             "is on CUDA device " + std::to_string(device) + ", and the current device is " +
                 std::to_string(current));
    }
    fill_shape(a, kernel, a.name, static_cast<py::ssize_t>(shape.size()), shape.data(),
               strides.data(), itemsize);
    return true;
}

}  // namespace byhand
