// What Python calls first in a module that is compiled for a wide instruction set: it checks the
// processor, in code that every processor runs, and only then enters the wide code.
//
// Nothing of the module may run before this function. Its other sources therefore have no objects
// that need a constructor before main() (tests/core/test_processor.py looks for them), and this
// file includes no C++ library: see host/processor.h.
#include <Python.h>
#include <string.h>

#include "host/processor.h"

#define BYHAND_JOIN(a, b) a##b
#define BYHAND_ENTRY(module) BYHAND_JOIN(PyInit_, module)
#define BYHAND_QUOTE(module) #module
#define BYHAND_TEXT(module) BYHAND_QUOTE(module)

// The entry point that bind.cpp defines, renamed by CMake.
extern "C" PyObject* byhand_wide_entry(void);

PyMODINIT_FUNC BYHAND_ENTRY(BYHAND_MODULE)(void) {
    const char* const module = BYHAND_TEXT(BYHAND_MODULE);
    const byhand::Backend* best = &byhand::kBackends[0];
    for (int i = 0; i < byhand::kBackendCount; ++i) {
        const byhand::Backend& backend = byhand::kBackends[i];
        const bool can = byhand::runnable(backend);
        if (can) best = &backend;
        if (strcmp(backend.name, module + 1) != 0) continue;
        if (can) return byhand_wide_entry();
        PyErr_Format(PyExc_ImportError, "%s needs a processor with %s, and this one has %s", module,
                     backend.title, best->title);
        return nullptr;
    }
    PyErr_Format(PyExc_ImportError, "%s is not in the list of CPU back ends", module);
    return nullptr;
}
