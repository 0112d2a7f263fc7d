// The instruction sets of this processor, and the CPU back ends that it can run.
//
// This header and its implementation use no C++ library and define no inline function: they are
// linked into modules that are compiled for wide instruction sets, where the linker may take any
// copy of an inline function, and must run on every processor of the architecture.
#pragma once

namespace byhand {

// A CPU back end, compiled once for each instruction set.
struct Backend {
    const char* name;      // the Python module without its leading underscore
    const char* features;  // that the compiler was allowed to use, separated by blanks
    const char* title;     // the same for messages
};

// Every CPU back end of this architecture, the best one last.
extern const Backend kBackends[];
extern const int kBackendCount;

// Whether the processor and the operating system support every feature of this back end.
bool runnable(const Backend& backend);

// The names of the features that has_feature knows.
extern const char* const kFeatures[];
extern const int kFeatureCount;

// Whether this processor has a feature, named as in kFeatures; false for any other name.
//
// The environment variable BYHAND_CPU_FEATURES, if set, lists the features to use, separated by
// blanks or commas; all others count as missing. It can only remove features: it is how tests see
// what happens on a smaller processor.
bool has_feature(const char* name);

}  // namespace byhand
