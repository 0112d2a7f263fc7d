// Views of the caller's arrays, the types of a kernel's arguments.
//
// The type of an argument is its direction, so that the declaration shows what a kernel may do:
//   In         read only
//   Out        every element is written, and no element is read
//   Acc        added into (+=); None means frozen: skip it
//   Mut        read and written in place
//   StridedIn, StridedOut   the same with any strides; the others are C-contiguous
//   Maybe<A>   None may be passed; test it with `if (a)`
// A view owns nothing. The binding checks device, dtype, contiguity and writability and fills the
// view in. Shapes have been checked before, by the public function in Python.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace byhand {

enum class DType : std::uint8_t { none, f32, bf16, i64, b8 };

inline const char* to_string(DType dtype) {
    switch (dtype) {
        case DType::f32:
            return "float32";
        case DType::bf16:
            return "bfloat16";
        case DType::i64:
            return "int64";
        case DType::b8:
            return "bool";
        case DType::none:
            break;
    }
    return "none";
}

// The dtype tag of a C++ storage type; cuda/core adds the one for bfloat16.
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
    static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<std::int64_t> {
    static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<bool> {
    static constexpr DType value = DType::b8;
};

// Becomes Python's TypeError.
struct TypeError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline constexpr int kMaxDims = 6;

struct Array {
    const char* name = "";  // the argument's name, for error messages
    void* data = nullptr;
    DType dtype = DType::none;
    int ndim = 0;
    std::int64_t shape[kMaxDims] = {};
    std::int64_t stride[kMaxDims] = {};  // in elements

    explicit operator bool() const { return dtype != DType::none; }

    std::int64_t size() const {
        std::int64_t n = 1;
        for (int d = 0; d < ndim; ++d) n *= shape[d];
        return n;
    }
    // Kernels treat an array as a matrix of R rows and C columns: C is the last dimension.
    std::int64_t cols() const { return ndim == 0 ? 1 : shape[ndim - 1]; }
    std::int64_t rows() const {
        std::int64_t n = 1;
        for (int d = 0; d < ndim - 1; ++d) n *= shape[d];
        return n;
    }

  protected:
    template <class T>
    T* typed() const {
        if (dtype == DType::none) return nullptr;
        if (dtype != DTypeOf<T>::value) {
            throw TypeError(std::string(name) + " must be " + to_string(DTypeOf<T>::value) +
                            ", got " + to_string(dtype));
        }
        return static_cast<T*>(data);
    }
};

struct ReadOnly : Array {
    template <class T>
    const T* as() const {
        return typed<T>();
    }
};

struct Writable : Array {
    template <class T>
    T* as() const {
        return typed<T>();
    }
};

struct In : ReadOnly {};
struct StridedIn : ReadOnly {};
struct Out : Writable {};
struct StridedOut : Writable {};
struct Acc : Writable {};
struct Mut : Writable {};

template <class A>
struct Maybe : A {};

// The queue a kernel runs in: cupy's current CUDA stream, filled in by the binding. The CPU
// ignores it.
struct Stream {
    void* handle = nullptr;
};

}  // namespace byhand
