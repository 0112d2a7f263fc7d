// The module _host: what Python asks about the processor before it chooses a back end, and the
// allocator of activations. Compiled for the baseline instruction set, because every processor must
// be able to load it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <sstream>
#include <string>

#include "host/pool.h"
#include "host/processor.h"

namespace py = pybind11;

namespace {

// An unknown name in BYHAND_CPU_FEATURES would remove every feature without a word.
void check_feature_list() {
    const char* const text = std::getenv("BYHAND_CPU_FEATURES");
    std::string words(text == nullptr ? "" : text);
    std::replace(words.begin(), words.end(), ',', ' ');
    std::istringstream list(words);
    for (std::string word; list >> word;) {
        bool known = false;
        std::string all;
        for (int i = 0; i < byhand::kFeatureCount; ++i) {
            known = known || word == byhand::kFeatures[i];
            all += std::string(i == 0 ? "" : ", ") + byhand::kFeatures[i];
        }
        if (!known) {
            throw py::value_error("BYHAND_CPU_FEATURES lists " + word + ", which is not one of " +
                                  all);
        }
    }
}

// Back ends whose instructions this processor and operating system can run, the best one last.
py::list runnable_backends() {
    check_feature_list();
    py::list names;
    for (int i = 0; i < byhand::kBackendCount; ++i) {
        if (byhand::runnable(byhand::kBackends[i])) names.append(byhand::kBackends[i].name);
    }
    return names;
}

// Extensions of the instruction set, for `byhand info`.
py::list instruction_sets() {
    check_feature_list();
    py::list names;
    for (int i = 0; i < byhand::kFeatureCount; ++i) {
        if (byhand::has_feature(byhand::kFeatures[i])) names.append(byhand::kFeatures[i]);
    }
    return names;
}

constexpr int kMaxDims = 32;  // of numpy 1
// Bytes below which numpy's allocator is quicker than the pool.
constexpr std::size_t kSmall = 4096;

// (shape, dtype) -> an uninitialised C-contiguous numpy array; the memory of a large one goes back
// to the pool when the array dies.
py::object empty(const py::handle* given) {
    const auto sizes = py::cast<py::tuple>(given[0]);
    auto dtype = py::dtype::from_args(py::reinterpret_borrow<py::object>(given[1]));
    const int ndim = static_cast<int>(sizes.size());
    if (ndim > kMaxDims) throw py::value_error("too many dimensions");
    Py_intptr_t shape[kMaxDims];
    auto bytes = static_cast<std::size_t>(dtype.itemsize());
    for (int d = 0; d < ndim; ++d) {
        shape[d] = py::cast<Py_intptr_t>(sizes[static_cast<std::size_t>(d)]);
        if (shape[d] < 0) throw py::value_error("negative dimensions are not allowed");
        const auto n = static_cast<std::size_t>(shape[d]);
        if (n != 0 && bytes > std::numeric_limits<std::size_t>::max() / 4 / n) {
            throw std::bad_alloc();
        }
        bytes *= n;
    }
    // Not py::array, which copies the shape and computes the strides first.
    using Numpy = py::detail::npy_api;
    const Numpy& numpy = Numpy::get();
    void* const memory = bytes < kSmall ? nullptr : byhand::pool_allocate(bytes);
    py::object owner;
    if (memory != nullptr) {
        owner = py::capsule(memory, [](void* p) { byhand::pool_release(p); });
    }
    auto array = py::reinterpret_steal<py::object>(numpy.PyArray_NewFromDescr_(
        numpy.PyArray_Type_, dtype.release().ptr(), ndim, shape, nullptr, memory,
        owner ? Numpy::NPY_ARRAY_WRITEABLE_ : 0, nullptr));
    if (!array ||
        (owner && numpy.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr()) != 0)) {
        throw py::error_already_set();
    }
    return array;
}

template <class T>
bool within(const py::array& array, py::handle low, py::handle high) {
    const T least = py::cast<T>(low), most = py::cast<T>(high);
    const T* const numbers = static_cast<const T*>(array.data());
    bool fits = true;
    for (py::ssize_t i = 0; i < array.size(); ++i) {
        fits = fits & (least <= numbers[i]) & (numbers[i] <= most);
    }
    return fits;
}

// (array, low, high) -> whether every number of the array is in low..high, as NaN is not. False
// also for an array that is not C-contiguous or of another dtype than float32, float64 and int64.
py::object all_within(const py::handle* given) {
    constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    const auto array = py::cast<py::array>(given[0]);
    bool fits = (array.flags() & kPlain) == kPlain;
    if (!fits) {
    } else if (py::isinstance<py::array_t<std::int64_t>>(array)) {
        fits = within<std::int64_t>(array, given[1], given[2]);
    } else if (py::isinstance<py::array_t<float>>(array)) {
        fits = within<float>(array, given[1], given[2]);
    } else {
        fits =
            py::isinstance<py::array_t<double>>(array) && within<double>(array, given[1], given[2]);
    }
    return py::bool_(fits);
}

// A function that operations call each time, as Python calls it: pybind11's own conversion of the
// arguments takes longer than the function.
template <Py_ssize_t kCount, py::object (*kFunction)(const py::handle*)>
PyObject* call(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
    try {
        if (count != kCount) throw py::type_error("takes " + std::to_string(kCount) + " arguments");
        py::handle given[kCount];
        std::copy(arguments, arguments + count, given);
        return kFunction(given).release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    return nullptr;
}

template <Py_ssize_t kCount, py::object (*kFunction)(const py::handle*)>
PyMethodDef method(const char* name) {
    const auto any = reinterpret_cast<void (*)()>(call<kCount, kFunction>);
    return {name, reinterpret_cast<PyCFunction>(any), METH_FASTCALL, nullptr};
}

PyMethodDef functions[] = {method<2, empty>("empty"), method<3, all_within>("all_within"), {}};

}  // namespace

PYBIND11_MODULE(_host, module) {
    module.def("runnable_backends", &runnable_backends);
    module.def("instruction_sets", &instruction_sets);
    if (PyModule_AddFunctions(module.ptr(), functions) != 0) throw py::error_already_set();
    module.def("pool_stats", [] {
        const auto stats = byhand::pool_stats();
        py::dict result;
        result["in_use"] = stats.in_use;
        result["cached"] = stats.cached;
        result["peak"] = stats.peak;
        return result;
    });
    module.def("pool_reset_peak", &byhand::pool_reset_peak);
    module.def("pool_trim", &byhand::pool_trim);
}
