// What Python needs to know of the machine before it picks a back end, and the memory that
// activations live in. Compiled for the baseline instruction set: it must load everywhere.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string>
#include <vector>

#include "core/pool.h"

namespace py = pybind11;

namespace {

// Back ends whose instructions this processor and operating system can run, best last.
py::list runnable_backends() {
    py::list names;
    names.append("cpu_base");
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        names.append("cpu_avx2");
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            names.append("cpu_avx512");
            if (__builtin_cpu_supports("avx512bf16")) names.append("cpu_avx512bf16");
        }
    }
#elif defined(__aarch64__)
    names.append("cpu_neon");
#endif
    return names;
}

// Instruction-set extensions worth naming in `byhand info`.
py::list instruction_sets() {
    py::list names;
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
#define BYHAND_FEATURE(name) \
    if (__builtin_cpu_supports(name)) names.append(name)
    BYHAND_FEATURE("sse4.2");
    BYHAND_FEATURE("avx");
    BYHAND_FEATURE("avx2");
    BYHAND_FEATURE("fma");
    BYHAND_FEATURE("avx512f");
    BYHAND_FEATURE("avx512bw");
    BYHAND_FEATURE("avx512dq");
    BYHAND_FEATURE("avx512vl");
    BYHAND_FEATURE("avx512bf16");
#undef BYHAND_FEATURE
#elif defined(__aarch64__)
    names.append("neon");
#endif
    return names;
}

// An uninitialised C-contiguous numpy array whose memory goes back to the pool when it dies.
py::array empty(const py::tuple& shape, const py::dtype& dtype) {
    std::vector<py::ssize_t> dims(shape.size());
    std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
    for (std::size_t d = 0; d < dims.size(); ++d) {
        dims[d] = py::cast<py::ssize_t>(shape[d]);
        if (dims[d] < 0) throw py::value_error("negative dimensions are not allowed");
        const auto n = static_cast<std::size_t>(dims[d]);
        if (n != 0 && bytes > std::numeric_limits<std::size_t>::max() / 4 / n) {
            throw std::bad_alloc();
        }
        bytes *= n;
    }
    void* block = byhand::pool_allocate(bytes);
    py::capsule owner(block, [](void* p) { byhand::pool_release(p); });
    return py::array(dtype, std::move(dims), block, owner);
}

}  // namespace

PYBIND11_MODULE(_host, module) {
    module.def("runnable_backends", &runnable_backends);
    module.def("instruction_sets", &instruction_sets);
    module.def("empty", &empty);
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
