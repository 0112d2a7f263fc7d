// Converts Python arguments to the views of array.h. An array's representation is checked here and
// nowhere else: kind of array, dtype, byte order, contiguity, writability, device, and alignment to
// its own elements (kernels that load 16 bytes at a time check for that alignment themselves, see
// cuda/core/pack.cuh). Each error names the kernel, the argument, what was expected and what came.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/array.h"
#include "random/philox.h"

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

struct Registry {
    py::module_ module;
    py::dict kernels;  // name -> [(argument, kind), ...], read by the tests
};

template <class A>
struct IsMaybe : std::false_type {
    using Base = A;
};
template <class A>
struct IsMaybe<Maybe<A>> : std::true_type {
    using Base = A;
};

template <class A>
constexpr const char* kind_name() {
    using Base = typename IsMaybe<A>::Base;
    if constexpr (std::is_same_v<Base, In>)
        return "In";
    else if constexpr (std::is_same_v<Base, Out>)
        return "Out";
    else if constexpr (std::is_same_v<Base, Acc>)
        return "Acc";
    else if constexpr (std::is_same_v<Base, Mut>)
        return "Mut";
    else if constexpr (std::is_same_v<Base, StridedIn>)
        return "StridedIn";
    else if constexpr (std::is_same_v<Base, StridedOut>)
        return "StridedOut";
    else if constexpr (std::is_same_v<A, bool>)
        return "bool";
    else if constexpr (std::is_integral_v<A> || std::is_same_v<A, Offset>)
        return "int";
    else
        return "float";
}

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
    int device = 0;
    py::ssize_t itemsize = 0;
    try {
        const py::object dtype = object.attr("dtype");
        if (!py::isinstance<py::dtype>(dtype)) return false;  // for example an array of PyTorch
        a.dtype = dtype_of(py::reinterpret_borrow<py::dtype>(dtype));
        itemsize = py::reinterpret_borrow<py::dtype>(dtype).itemsize();
        shape = py::cast<std::vector<py::ssize_t>>(object.attr("shape"));
        strides = py::cast<std::vector<py::ssize_t>>(object.attr("strides"));
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

template <class A>
A cast_argument(py::handle object, const char* kernel, const char* name) {
    using Base = typename IsMaybe<A>::Base;
    if constexpr (std::is_base_of_v<Array, A>) {
        constexpr bool optional = IsMaybe<A>::value || std::is_same_v<Base, Acc>;
        constexpr bool writable = std::is_base_of_v<Writable, Base>;
        constexpr bool strided =
            std::is_same_v<Base, StridedIn> || std::is_same_v<Base, StridedOut>;
        A a;
        a.name = name;
        if (object.is_none()) {
            if (optional) return a;
            fail(kernel, name, "must be an array, got None");
        }
        bool seen = false;
        if constexpr (kDeviceArrays) {
            seen = view_cupy(a, object, kernel);
        } else {
            seen = view_numpy(a, object, kernel, writable);
        }
        if (!seen) {
            fail(kernel, name,
                 std::string("must be a ") + (kDeviceArrays ? "cupy" : "numpy") + " array, got " +
                     describe(object));
        }
        if (!strided && !contiguous(a)) {
            fail(kernel, name,
                 "must be C-contiguous, got strides " + text_of(object.attr("strides")) +
                     " for shape " + text_of(object.attr("shape")));
        }
        return a;
    } else if constexpr (std::is_same_v<A, Offset>) {
        if (!py::isinstance<py::tuple>(object)) {
            return {cast_argument<std::uint64_t>(object, kernel, name)};
        }
        const auto pair = py::reinterpret_borrow<py::tuple>(object);
        if (pair.size() == 2) {
            const auto moving = cast_argument<In>(pair[1], kernel, name);
            if (moving.dtype == DType::i64 && moving.ndim == 0) {
                return {cast_argument<std::uint64_t>(pair[0], kernel, name),
                        moving.as<std::int64_t>()};
            }
        }
        fail(kernel, name, "must be an integer, or a pair of one and a 0-d int64 array");
    } else {
        try {
            return py::cast<A>(object);
        } catch (const py::cast_error&) {
            fail(kernel, name,
                 std::string("must be a ") + kind_name<A>() + ", got " + text_of(py::repr(object)));
        }
    }
}

inline Stream current_stream() {
#if defined(BYHAND_CUDA_ON_CPU)
    return Stream{reinterpret_cast<void*>(std::uintptr_t{2})};  // cudaStreamPerThread
#elif defined(BYHAND_BACKEND_CUDA)
    // Never released: at exit the interpreter may be finalised before this object is destroyed.
    static const py::handle get =
        py::object(py::module_::import("cupy").attr("cuda").attr("get_current_stream")).release();
    return Stream{reinterpret_cast<void*>(py::cast<std::uintptr_t>(get().attr("ptr")))};
#else
    return Stream{};
#endif
}

namespace detail {

template <class F>
struct Signature;
template <class... A>
struct Signature<void (*)(A...)> {
    using All = std::tuple<A...>;
    static constexpr std::size_t count = sizeof...(A) - 1;  // without the stream
};

template <class All, std::size_t... I>
auto arguments(std::index_sequence<I...>) -> std::tuple<std::tuple_element_t<I, All>...>;

template <class Arguments>
struct Binder;
template <class... A>
struct Binder<std::tuple<A...>> {
    static void bind(Registry& registry, const char* kernel, std::vector<std::string> names,
                     void (*f)(A..., Stream)) {
        constexpr std::size_t count = sizeof...(A);
        if (names.size() != count) {
            throw std::logic_error(std::string(kernel) + " is registered with " +
                                   std::to_string(names.size()) + " argument names but takes " +
                                   std::to_string(count));
        }
        py::list arguments;
        std::size_t i = 0;
        (arguments.append(py::make_tuple(names[i++], kind_name<A>())), ...);
        registry.kernels[kernel] = arguments;
        registry.module.def(kernel, [f, kernel, names = std::move(names)](const py::args& args) {
            if (args.size() != count) {
                throw TypeError(std::string(kernel) + ": takes " + std::to_string(count) +
                                " arguments, got " + std::to_string(args.size()));
            }
            call(f, kernel, names, args, std::index_sequence_for<A...>{});
        });
    }

    template <std::size_t... I>
    static void call(void (*f)(A..., Stream), const char* kernel,
                     const std::vector<std::string>& names, const py::args& args,
                     std::index_sequence<I...>) {
        // The views do not own their arrays: `args` keeps them alive during the call.
        std::tuple<A...> views{
            cast_argument<A>(PyTuple_GET_ITEM(args.ptr(), I), kernel, names[I].c_str())...};
        const Stream stream = current_stream();
        py::gil_scoped_release release;
        try {
            f(std::get<I>(views)..., stream);
        } catch (const TypeError& error) {
            throw TypeError(std::string(kernel) + ": " + error.what());
        }
    }
};

inline std::vector<std::string> split(const char* names) {
    std::istringstream text(names);
    std::vector<std::string> words;
    for (std::string word; text >> word;) words.push_back(word);
    return words;
}

}  // namespace detail

// Registers one kernel: `names` lists the arguments as Python passes them, without the stream.
template <class F>
void define(Registry& registry, const char* kernel, const char* names, F f) {
    using S = detail::Signature<F>;
    using Arguments =
        decltype(detail::arguments<typename S::All>(std::make_index_sequence<S::count>{}));
    detail::Binder<Arguments>::bind(registry, kernel, detail::split(names), f);
}

}  // namespace byhand
