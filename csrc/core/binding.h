// Makes Python functions of kernels.
//
// A kernel's declaration becomes a table of its arguments, and one function, call_kernel, serves
// all kernels by reading their tables: templates that convert the arguments of each kernel on their
// own take several times as long to compile.
#pragma once

#include <cstddef>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/array.h"
#include "core/caster.h"
#include "random/philox.h"

namespace byhand {

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

enum class Type { array, boolean, integer, natural, offset, number };

// One argument of a kernel, as its declaration describes it.
struct Argument {
    std::string name;
    const char* kind = "";  // its direction, or "bool", "int" or "float"
    Type type = Type::array;
    bool optional = false, writable = false, strided = false;  // of an array
};

template <class A>
Argument argument_of() {
    using Base = typename IsMaybe<A>::Base;
    Argument a;
    if constexpr (std::is_base_of_v<Array, A>) {
        constexpr bool strided_in = std::is_same_v<Base, StridedIn>;
        constexpr bool strided_out = std::is_same_v<Base, StridedOut>;
        a.kind = std::is_same_v<Base, In>    ? "In"
                 : std::is_same_v<Base, Out> ? "Out"
                 : std::is_same_v<Base, Acc> ? "Acc"
                 : std::is_same_v<Base, Mut> ? "Mut"
                 : strided_in                ? "StridedIn"
                                             : "StridedOut";
        a.optional = IsMaybe<A>::value || std::is_same_v<Base, Acc>;
        a.writable = std::is_base_of_v<Writable, Base>;
        a.strided = strided_in || strided_out;
    } else if constexpr (std::is_same_v<A, bool>) {
        a.kind = "bool";
        a.type = Type::boolean;
    } else if constexpr (std::is_same_v<A, double>) {
        a.kind = "float";
        a.type = Type::number;
    } else {
        a.kind = "int";
        a.type = std::is_same_v<A, std::int64_t>    ? Type::integer
                 : std::is_same_v<A, std::uint64_t> ? Type::natural
                                                    : Type::offset;
        static_assert(std::is_same_v<A, std::int64_t> || std::is_same_v<A, std::uint64_t> ||
                          std::is_same_v<A, Offset>,
                      "the binding does not convert arguments of this type");
    }
    return a;
}

// An argument's value, in the member for its type. The stream of a call is its last value.
struct Value {
    Array array;
    bool boolean = false;
    std::int64_t integer = 0;
    std::uint64_t natural = 0;
    Offset offset{0};
    double number = 0.0;
    Stream stream;

    template <class A>
    A as() const {
        if constexpr (IsMaybe<A>::value) {
            return {as<typename IsMaybe<A>::Base>()};
        } else if constexpr (std::is_base_of_v<ReadOnly, A>) {
            return {ReadOnly{array}};
        } else if constexpr (std::is_base_of_v<Writable, A>) {
            return {Writable{array}};
        } else if constexpr (std::is_same_v<A, bool>) {
            return boolean;
        } else if constexpr (std::is_same_v<A, std::int64_t>) {
            return integer;
        } else if constexpr (std::is_same_v<A, std::uint64_t>) {
            return natural;
        } else if constexpr (std::is_same_v<A, Offset>) {
            return offset;
        } else if constexpr (std::is_same_v<A, double>) {
            return number;
        } else {
            return stream;
        }
    }
};

inline constexpr int kMaxArguments = 24;  // of a kernel, the stream included

struct Kernel {
    const char* name;
    std::vector<Argument> arguments;
    void (*function)();  // the kernel, of the type that `call` knows
    void (*call)(void (*function)(), const Value* values);
    PyMethodDef method;
};

template <class A>
A scalar(py::handle object, const Kernel& kernel, const Argument& argument) {
    try {
        return py::cast<A>(object);
    } catch (const py::cast_error&) {
        fail(kernel.name, argument.name.c_str(),
             std::string("must be a ") + argument.kind + ", got " + text_of(py::repr(object)));
    }
}

inline Array array_view(py::handle object, const Kernel& kernel, const Argument& argument) {
    Array a;
    a.name = argument.name.c_str();
    if (object.is_none()) {
        if (argument.optional) return a;
        fail(kernel.name, a.name, "must be an array, got None");
    }
    const bool seen = kDeviceArrays ? view_cupy(a, object, kernel.name)
                                    : view_numpy(a, object, kernel.name, argument.writable);
    if (!seen) {
        fail(kernel.name, a.name,
             std::string("must be a ") + (kDeviceArrays ? "cupy" : "numpy") + " array, got " +
                 describe(object));
    }
    if (!argument.strided && !contiguous(a)) {
        fail(kernel.name, a.name,
             "must be C-contiguous, got strides " + text_of(object.attr("strides")) +
                 " for shape " + text_of(object.attr("shape")));
    }
    return a;
}

inline Offset offset_of(py::handle object, const Kernel& kernel, const Argument& argument) {
    if (!py::isinstance<py::tuple>(object)) {
        return {scalar<std::uint64_t>(object, kernel, argument)};
    }
    const auto pair = py::reinterpret_borrow<py::tuple>(object);
    if (pair.size() == 2) {
        const Array moving = array_view(pair[1], kernel, argument);
        if (moving.dtype == DType::i64 && moving.ndim == 0) {
            return {scalar<std::uint64_t>(pair[0], kernel, argument),
                    static_cast<const std::int64_t*>(moving.data)};
        }
    }
    fail(kernel.name, argument.name.c_str(),
         "must be an integer, or a pair of one and a 0-d int64 array");
}

inline void convert(Value& value, py::handle object, const Kernel& kernel,
                    const Argument& argument) {
    switch (argument.type) {
        case Type::array:
            value.array = array_view(object, kernel, argument);
            break;
        case Type::boolean:
            value.boolean = scalar<bool>(object, kernel, argument);
            break;
        case Type::integer:
            value.integer = scalar<std::int64_t>(object, kernel, argument);
            break;
        case Type::natural:
            value.natural = scalar<std::uint64_t>(object, kernel, argument);
            break;
        case Type::offset:
            value.offset = offset_of(object, kernel, argument);
            break;
        case Type::number:
            value.number = scalar<double>(object, kernel, argument);
            break;
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

// Sets Python's error for the C++ exception being handled. A TypeError that a kernel throws does
// not name the kernel.
inline void set_python_error() {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();  // Python adds the shapes
    } catch (const std::out_of_range& error) {
        PyErr_SetString(PyExc_IndexError, error.what());
    } catch (const std::logic_error& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    } catch (const TypeError& error) {
        PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
}

// What Python calls for every kernel; `self` holds the Kernel. Python keeps `objects` alive during
// the call, as the views, which own nothing, need.
inline PyObject* call_kernel(PyObject* self, PyObject* const* objects, Py_ssize_t count) {
    const Kernel& kernel = *static_cast<const Kernel*>(PyCapsule_GetPointer(self, nullptr));
    try {
        const auto expected = static_cast<Py_ssize_t>(kernel.arguments.size());
        if (count != expected) {
            throw TypeError(std::string(kernel.name) + ": takes " + std::to_string(expected) +
                            " arguments, got " + std::to_string(count));
        }
        Value values[kMaxArguments];
        for (Py_ssize_t i = 0; i < count; ++i) {
            convert(values[i], objects[i], kernel, kernel.arguments[static_cast<std::size_t>(i)]);
        }
        values[count].stream = current_stream();
        const py::gil_scoped_release release;
        try {
            kernel.call(kernel.function, values);
        } catch (const TypeError& error) {
            throw TypeError(std::string(kernel.name) + ": " + error.what());
        }
    } catch (...) {
        set_python_error();
        return nullptr;
    }
    Py_RETURN_NONE;
}

// Makes a kernel known to Python; `names` lists its arguments, without the stream.
inline void add_kernel(Registry& registry, Kernel kernel, const char* names) {
    std::istringstream text(names);
    std::vector<std::string> words;
    for (std::string word; text >> word;) words.push_back(word);
    if (words.size() != kernel.arguments.size()) {
        throw std::logic_error(std::string(kernel.name) + " is registered with " +
                               std::to_string(words.size()) + " argument names but takes " +
                               std::to_string(kernel.arguments.size()));
    }
    py::list arguments;
    for (std::size_t i = 0; i < words.size(); ++i) {
        arguments.append(py::make_tuple(words[i], kernel.arguments[i].kind));
        kernel.arguments[i].name = std::move(words[i]);
    }
    registry.kernels[kernel.name] = arguments;
    kernel.method = {kernel.name,
                     reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_kernel)),
                     METH_FASTCALL, nullptr};
    auto* const kept = new Kernel(std::move(kernel));  // never freed: the function refers to it
    const py::capsule self(kept, static_cast<const char*>(nullptr));
    const py::object module_name = registry.module.attr("__name__");
    PyObject* const made = PyCFunction_NewEx(&kept->method, self.ptr(), module_name.ptr());
    if (made == nullptr) throw py::error_already_set();
    registry.module.attr(kept->name) = py::reinterpret_steal<py::object>(made);
}

template <class A>
void add_argument(std::vector<Argument>& arguments) {
    if constexpr (!std::is_same_v<A, Stream>) arguments.push_back(argument_of<A>());
}

template <class... A, std::size_t... I>
void call_with(void (*function)(A...), const Value* values, std::index_sequence<I...>) {
    function(values[I].template as<A>()...);
}

// Registers one kernel: `names` lists the arguments as Python passes them, without the stream.
template <class... A>
void define(Registry& registry, const char* name, const char* names, void (*function)(A...)) {
    static_assert(sizeof...(A) <= kMaxArguments);
    std::vector<Argument> arguments;
    (add_argument<A>(arguments), ...);
    const auto call = [](void (*any)(), const Value* values) {
        call_with(reinterpret_cast<void (*)(A...)>(any), values, std::index_sequence_for<A...>{});
    };
    add_kernel(registry,
               {name, std::move(arguments), reinterpret_cast<void (*)()>(function), call, {}},
               names);
}

}  // namespace byhand
