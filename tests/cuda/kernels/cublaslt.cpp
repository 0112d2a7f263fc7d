// A stand-in for cuBLASLt: the functions that byhand uses, on memory of the CPU. It checks all its
// arguments, multiplies in plain loops, and counts calls for the tests.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "core/cublaslt_api.h"

namespace byhand::lt {

struct HandleOpaque {};

struct DescOpaque {
    ComputeType compute;
    DataType scale;
    std::int32_t transposed[2] = {0, 0};
    std::uint32_t epilogue = kNoEpilogue;
    const void* bias = nullptr;
};

struct LayoutOpaque {
    DataType type;
    std::uint64_t rows, cols;
    std::int64_t leading;

    std::uint64_t bytes() const { return type == kBfloat16 ? 2 : 4; }
    bool operator!=(const LayoutOpaque& o) const {
        return type != o.type || rows != o.rows || cols != o.cols || leading != o.leading;
    }
};

struct PreferenceOpaque {
    std::uint64_t workspace = 0;
    std::uint32_t schemes = 7;
    std::uint32_t alignment[4] = {256, 256, 256, 256};
};

namespace {

std::atomic<int> heuristics{0}, multiplied{0}, handles{0}, open{0};
std::string failing;  // the function that fails next, and how
Status failure = kSuccess;

// The reason of the last refusal.
std::string complaint;

Status refuse(const std::string& why) {
    complaint = why;
    return kInvalidValue;
}

// The value of an attribute.
struct Attribute {
    const void* value;
    std::size_t bytes;

    template <class T>
    Status operator()(T& to) const {
        if (bytes != sizeof to) return refuse("the size of an attribute");
        std::memcpy(&to, value, bytes);
        return kSuccess;
    }
};

template <class T>
Status made(T** to, const T& value) {
    ++open;
    *to = new T(value);
    return kSuccess;
}

template <class T>
Status destroyed(T* what) {
    --open;
    delete what;
    return kSuccess;
}

bool fails(const char* function, Status& status) {
    if (failing != function) return false;
    failing.clear();
    status = failure;
    return true;
}

#define MAY_FAIL() \
    if (Status status; fails(__func__, status)) return status

// An algorithm may only be used for the problem that it was found for.
std::uint64_t hash(const DescOpaque& desc, const LayoutOpaque& a, const LayoutOpaque& b,
                   const LayoutOpaque& c) {
    std::uint64_t sum = 1469598103934665603u;
    const auto add = [&](std::uint64_t v) { sum = (sum ^ v) * 1099511628211u; };
    for (const LayoutOpaque* l : {&a, &b, &c}) {
        add(l->type), add(l->rows), add(l->cols), add(static_cast<std::uint64_t>(l->leading));
    }
    add(desc.epilogue), add(desc.transposed[0] + 2 * desc.transposed[1]);
    return sum;
}

std::string check_layouts(const DescOpaque& desc, const LayoutOpaque& a, const LayoutOpaque& b,
                          const LayoutOpaque& c) {
    if (desc.compute != kComputeFloat32 || desc.scale != kFloat32) return "not float32";
    const auto rows = [](const LayoutOpaque& l, int t) { return t ? l.cols : l.rows; };
    const auto cols = [](const LayoutOpaque& l, int t) { return t ? l.rows : l.cols; };
    if (cols(a, desc.transposed[0]) != rows(b, desc.transposed[1])) return "inner sizes differ";
    if (c.rows != rows(a, desc.transposed[0])) return "rows of c";
    if (c.cols != cols(b, desc.transposed[1])) return "columns of c";
    if (a.type != b.type || (a.type == kFloat32 && c.type != kFloat32)) return "types";
    if (desc.epilogue != kNoEpilogue && desc.epilogue != kBias) return "unknown epilogue";
    if ((desc.epilogue == kBias) != (desc.bias != nullptr)) return "bias without epilogue";
    return "";
}

bool aligned(const void* p, std::uint64_t to) {
    return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

float read(const void* p, DataType type, std::uint64_t at) {
    if (type == kFloat32) return static_cast<const float*>(p)[at];
    const std::uint32_t bits = std::uint32_t{static_cast<const std::uint16_t*>(p)[at]} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

void write(void* p, DataType type, std::uint64_t at, float value) {
    if (type == kFloat32) {
        static_cast<float*>(p)[at] = value;
        return;
    }
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? 0x7fffu << 16 : bits + 0x7fffu + (bits >> 16 & 1);
    static_cast<std::uint16_t*>(p)[at] = static_cast<std::uint16_t>(bits >> 16);
}

// The data of an algorithm.
enum Slot { kProblem, kWorkspace, kAlignments, kBiasAlignment };

}  // namespace
}  // namespace byhand::lt

using namespace byhand::lt;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Status cublasLtCreate(Handle* handle) {
    MAY_FAIL();
    ++handles;
    *handle = new HandleOpaque;
    return kSuccess;
}

EXPORT const char* cublasLtGetStatusName(Status status) {
    return status == kInvalidValue ? "CUBLAS_STATUS_INVALID_VALUE" : "CUBLAS_STATUS_ANOTHER";
}

EXPORT const char* cublasLtGetStatusString(Status status) {
    return status == kInvalidValue ? complaint.c_str() : "as the test asked";
}

EXPORT Status cublasLtMatmulDescCreate(Desc* desc, ComputeType compute, DataType scale) {
    MAY_FAIL();
    return made(desc, DescOpaque{compute, scale});
}

EXPORT Status cublasLtMatmulDescDestroy(Desc desc) { return destroyed(desc); }

EXPORT Status cublasLtMatmulDescSetAttribute(Desc desc, DescAttribute attribute, const void* value,
                                             std::size_t bytes) {
    MAY_FAIL();
    const Attribute set{value, bytes};
    switch (attribute) {
        case kTransA:
            return set(desc->transposed[0]);
        case kTransB:
            return set(desc->transposed[1]);
        case kEpilogue:
            return set(desc->epilogue);
        case kBiasPointer:
            return set(desc->bias);
    }
    return refuse("an unknown attribute");
}

EXPORT Status cublasLtMatrixLayoutCreate(Layout* layout, DataType type, std::uint64_t rows,
                                         std::uint64_t cols, std::int64_t leading) {
    MAY_FAIL();
    if (type != kFloat32 && type != kBfloat16) return refuse("an unknown type");
    if (rows == 0 || cols == 0) return refuse("a matrix without elements");
    if (leading < static_cast<std::int64_t>(rows)) return refuse("columns overlap");
    return made(layout, LayoutOpaque{type, rows, cols, leading});
}

EXPORT Status cublasLtMatrixLayoutDestroy(Layout layout) { return destroyed(layout); }

EXPORT Status cublasLtMatmulPreferenceCreate(Preference* preference) {
    MAY_FAIL();
    return made(preference, PreferenceOpaque{});
}

EXPORT Status cublasLtMatmulPreferenceDestroy(Preference preference) {
    return destroyed(preference);
}

EXPORT Status cublasLtMatmulPreferenceSetAttribute(Preference p, PreferenceAttribute attribute,
                                                   const void* value, std::size_t bytes) {
    MAY_FAIL();
    const Attribute set{value, bytes};
    switch (attribute) {
        case kMaxWorkspaceBytes:
            return set(p->workspace);
        case kReductionSchemes:
            return set(p->schemes);
        case kAlignmentA:
        case kAlignmentB:
        case kAlignmentC:
        case kAlignmentD:
            return set(p->alignment[attribute - kAlignmentA]);
    }
    return refuse("an unknown attribute");
}

EXPORT Status cublasLtMatmulAlgoGetHeuristic(Handle, Desc desc, Layout a, Layout b, Layout c,
                                             Layout d, Preference preference, int asked,
                                             HeuristicResult* result, int* found) {
    MAY_FAIL();
    ++heuristics;
    if (asked != 1) return refuse("room for one result");
    if (*c != *d) return refuse("c and d differ");
    if (const std::string why = check_layouts(*desc, *a, *b, *c); !why.empty()) return refuse(why);
    if (preference->schemes != kReduceInComputeType) return refuse("sums in another type");
    *result = {};
    auto& data = result->algorithm.data;
    data[kProblem] = hash(*desc, *a, *b, *c);
    // Products with a large depth use the whole workspace.
    const std::uint64_t depth = desc->transposed[0] ? a->rows : a->cols;
    data[kWorkspace] = result->workspace = depth > 64 ? preference->workspace : 0;
    for (int i = 0; i < 4; ++i) {
        data[kAlignments] |= std::uint64_t{preference->alignment[i]} << 16 * i;
    }
    const auto address = reinterpret_cast<std::uintptr_t>(desc->bias);
    data[kBiasAlignment] = std::min<std::uint64_t>(address & (~address + 1), 16);
    *found = 1;
    return kSuccess;
}

EXPORT Status cublasLtMatmul(Handle, Desc desc, const void* alpha, const void* a, Layout a_layout,
                             const void* b, Layout b_layout, const void* beta, const void* c,
                             Layout c_layout, void* d, Layout d_layout, const Algorithm* algorithm,
                             void* workspace, std::size_t bytes, void*) {
    MAY_FAIL();
    ++multiplied;
    const LayoutOpaque &A = *a_layout, &B = *b_layout, &C = *c_layout;
    if (C != *d_layout) return refuse("c and d differ");
    if (const std::string why = check_layouts(*desc, A, B, C); !why.empty()) return refuse(why);
    const auto& data = algorithm->data;
    if (data[kProblem] != hash(*desc, A, B, C)) return refuse("an algorithm of another shape");
    const void* const arrays[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        const std::uint64_t promised = data[kAlignments] >> 16 * i & 0xffff;
        if (!aligned(arrays[i], promised)) return refuse("an array is less aligned than promised");
    }
    if (desc->bias != nullptr && !aligned(desc->bias, data[kBiasAlignment])) {
        return refuse("the bias is less aligned than when the algorithm was chosen");
    }
    if (bytes < data[kWorkspace] || !aligned(workspace, 256)) return refuse("the workspace");
    if (data[kWorkspace] != 0) {  // all of the workspace may be used
        static_cast<char*>(workspace)[0] = static_cast<char*>(workspace)[bytes - 1] = 1;
    }
    float by = 0.0f, more = 0.0f;
    std::memcpy(&by, alpha, 4), std::memcpy(&more, beta, 4);
    const std::uint64_t depth = desc->transposed[0] ? A.rows : A.cols;
    const auto at = [](const LayoutOpaque& l, std::uint64_t row, std::uint64_t col, bool t) {
        return t ? row * static_cast<std::uint64_t>(l.leading) + col
                 : col * static_cast<std::uint64_t>(l.leading) + row;
    };
    for (std::uint64_t j = 0; j < C.cols; ++j) {
        for (std::uint64_t i = 0; i < C.rows; ++i) {
            double exact = 0.0;
            for (std::uint64_t k = 0; k < depth; ++k) {
                exact += double{read(a, A.type, at(A, i, k, desc->transposed[0]))} *
                         double{read(b, B.type, at(B, k, j, desc->transposed[1]))};
            }
            float sum = by * static_cast<float>(exact);
            if (more != 0.0f) sum += more * read(c, C.type, at(C, i, j, false));
            if (desc->epilogue == kBias) sum += read(desc->bias, C.type, i);
            write(d, C.type, at(C, i, j, false), sum);
        }
    }
    return kSuccess;
}

// --- For the tests -----------------------------------------------------------------------------

#define SAME_TYPE(name) \
    static_assert(std::is_same_v<decltype(&name), decltype(Functions::name)>, #name);
BYHAND_CUBLASLT_FUNCTIONS(SAME_TYPE)

EXPORT int count_heuristics() { return heuristics; }
EXPORT int count_multiplied() { return multiplied; }
EXPORT int count_handles() { return handles; }
EXPORT int count_open() { return open; }

// Makes the next call of a function return this status.
EXPORT void fail_next(const char* function, int status) {
    failing = function;
    failure = static_cast<Status>(status);
}
