// The module _host: what Python asks about the processor before it chooses a back end, and the
// allocator of activations. Compiled for the baseline instruction set, because every processor must
// be able to load it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

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
