#include "core/cublaslt.h"

#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/cublaslt_api.h"
#include "core/device.h"
#include "core/workspace.h"

namespace byhand {
namespace {

Gemm parsed(const char* what, const std::string& text) {
    if (text == "hand") return Gemm::hand;
    if (text == "cublaslt") return Gemm::cublaslt;
    throw std::invalid_argument(std::string(what) + " must be hand or cublaslt, got '" + text +
                                "'");
}

std::atomic<Gemm>& choice() {
    static std::atomic<Gemm> chosen([] {
        const char* asked = std::getenv("BYHAND_GEMM");
        return asked == nullptr ? Gemm::hand : parsed("BYHAND_GEMM", asked);
    }());
    return chosen;
}

// --- The library -------------------------------------------------------------------------------

// Never released: at exit CUDA may be finalised before this module is.
template <class T>
T& kept() {
    static T& value = *new T;
    return value;
}

struct Library {
    std::mutex mutex;
    std::vector<std::string> paths;  // to try after the names that the linker knows
    bool loaded = false;
    lt::Functions functions = {};

    const lt::Functions& get(const char* name) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!loaded) load(name);
        return functions;
    }

  private:
    void load(const char* name) {
        const char* asked = std::getenv("BYHAND_CUBLASLT");
        std::vector<std::string> files = {"libcublasLt.so.13", "libcublasLt.so.12"};
        files.insert(files.end(), paths.begin(), paths.end());
        if (asked != nullptr) files = {asked};
        std::string tried;
        for (const std::string& file : files) {
            if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
                return take(name, file, library);
            }
            const char* why = dlerror();
            tried += (tried.empty() ? "" : "; ") + (why != nullptr ? std::string(why) : file);
        }
        throw std::runtime_error(std::string(name) +
                                 ": cuBLASLt cannot be loaded (install nvidia-cublas, or name the "
                                 "file in BYHAND_CUBLASLT): " +
                                 tried);
    }

    void take(const char* name, const std::string& file, void* library) {
        lt::Functions found;
        const auto find = [&](auto& function, const char* symbol) {
            function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, symbol));
            if (function != nullptr) return;
            throw std::runtime_error(std::string(name) + ": " + file + " has no " + symbol +
                                     ": it is not the cuBLASLt of CUDA 12 or 13");
        };
#define BYHAND_FIND(symbol) find(found.symbol, #symbol);
        BYHAND_CUBLASLT_FUNCTIONS(BYHAND_FIND)
#undef BYHAND_FIND
        functions = found;
        loaded = true;
    }
};

// Calls of cuBLASLt on behalf of one op; errors name it.
struct Calls {
    const lt::Functions& f;
    const char* name;

    void check(const char* function, lt::Status status) const {
        if (status == lt::kSuccess) return;
        throw std::runtime_error(std::string(name) + ": " + function + ": " +
                                 f.cublasLtGetStatusName(status) + ": " +
                                 f.cublasLtGetStatusString(status));
    }
};

#define BYHAND_LT(calls, function, ...) (calls).check(#function, (calls).f.function(__VA_ARGS__))

// A cuBLASLt descriptor, destroyed with this object unless it is moved into a Plan.
template <class T>
struct Owned {
    T value = nullptr;
    lt::Status (*destroy)(T);

    explicit Owned(lt::Status (*destroy)(T)) : destroy(destroy) {}
    Owned(const Owned&) = delete;
    ~Owned() {
        if (value != nullptr) destroy(value);
    }
    T keep() { return std::exchange(value, nullptr); }
};

// --- Handles and plans -------------------------------------------------------------------------

lt::Handle handle_of(const Calls& calls, int device, Stream stream) {
    struct Handles {
        std::mutex mutex;
        std::map<int, lt::Handle> of;
    };
    auto& handles = kept<Handles>();
    const std::lock_guard<std::mutex> lock(handles.mutex);
    const auto found = handles.of.find(device);
    if (found != handles.of.end()) return found->second;
    refuse_capture(calls.name, "cuBLASLt's handle", stream);
    lt::Handle made = nullptr;
    BYHAND_LT(calls, cublasLtCreate, &made);
    return handles.of[device] = made;
}

// How a shape is multiplied. cuBLASLt's matrices are column-major, so that our row-major matrices
// appear transposed to it: it computes cT = rightT leftT.
struct Plan {
    lt::Layout right, left, c;
    lt::HeuristicResult best;
};

// The alignment of an address, at most 16: no algorithm requires more, and the choice of algorithm
// must not depend on the address otherwise.
std::uint32_t alignment_of(const void* p) {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    return static_cast<std::uint32_t>(address % 16 == 0 ? 16 : address & (~address + 1));
}

lt::DataType type_of(DType dtype) { return dtype == DType::bf16 ? lt::kBfloat16 : lt::kFloat32; }

void describe(const Calls& calls, lt::Desc desc, const LtProduct& p) {
    const auto set = [&](lt::DescAttribute attribute, const auto& value) {
        BYHAND_LT(calls, cublasLtMatmulDescSetAttribute, desc, attribute, &value, sizeof value);
    };
    const auto operation = [](bool transposed) {
        return transposed ? lt::kTransposed : lt::kAsStored;
    };
    set(lt::kTransA, operation(p.right.transposed));
    set(lt::kTransB, operation(p.left.transposed));
    set(lt::kEpilogue, p.bias != nullptr ? lt::kBias : lt::kNoEpilogue);
    if (p.bias != nullptr) set(lt::kBiasPointer, p.bias);
}

Plan make_plan(const Calls& calls, lt::Handle handle, lt::Desc desc, const LtProduct& p) {
    Owned<lt::Layout> right(calls.f.cublasLtMatrixLayoutDestroy), left(right.destroy),
        c(right.destroy);
    const auto layout = [&](Owned<lt::Layout>& made, DType dtype, std::int64_t rows,
                            std::int64_t cols) {
        BYHAND_LT(calls, cublasLtMatrixLayoutCreate, &made.value, type_of(dtype),
                  static_cast<std::uint64_t>(cols), static_cast<std::uint64_t>(rows), cols);
    };
    const std::int64_t M = p.left.transposed ? p.left.cols : p.left.rows;
    const std::int64_t K = p.left.transposed ? p.left.rows : p.left.cols;
    const std::int64_t N = p.right.transposed ? p.right.rows : p.right.cols;
    layout(right, p.factors, p.right.rows, p.right.cols);
    layout(left, p.factors, p.left.rows, p.left.cols);
    layout(c, p.result, M, N);

    Owned<lt::Preference> preference(calls.f.cublasLtMatmulPreferenceDestroy);
    BYHAND_LT(calls, cublasLtMatmulPreferenceCreate, &preference.value);
    const auto prefer = [&](lt::PreferenceAttribute attribute, const auto& value) {
        BYHAND_LT(calls, cublasLtMatmulPreferenceSetAttribute, preference.value, attribute, &value,
                  sizeof value);
    };
    prefer(lt::kMaxWorkspaceBytes, std::uint64_t{kWorkspace});
    prefer(lt::kReductionSchemes, lt::kReduceInComputeType);
    prefer(lt::kAlignmentA, alignment_of(p.right.data));
    prefer(lt::kAlignmentB, alignment_of(p.left.data));
    prefer(lt::kAlignmentC, alignment_of(p.add != nullptr ? p.add : p.c));
    prefer(lt::kAlignmentD, alignment_of(p.c));

    lt::HeuristicResult best = {};
    int found = 0;
    const lt::Status status =
        calls.f.cublasLtMatmulAlgoGetHeuristic(handle, desc, right.value, left.value, c.value,
                                               c.value, preference.value, 1, &best, &found);
    if (status == lt::kNotSupported || (status == lt::kSuccess && found == 0)) {
        throw std::runtime_error(std::string(calls.name) + ": cuBLASLt has no algorithm for (" +
                                 std::to_string(M) + "," + std::to_string(K) + ") times (" +
                                 std::to_string(K) + "," + std::to_string(N) + ") in " +
                                 to_string(p.factors));
    }
    calls.check("cublasLtMatmulAlgoGetHeuristic", status);
    calls.check("cublasLtMatmulAlgoGetHeuristic", best.state);
    return {right.keep(), left.keep(), c.keep(), best};
}

const Plan& plan_of(const Calls& calls, lt::Handle handle, lt::Desc desc, int device,
                    const LtProduct& p) {
    using Key = std::array<std::int64_t, 15>;
    struct Plans {
        std::mutex mutex;
        std::map<Key, Plan> of;
    };
    const auto n = [](auto value) { return static_cast<std::int64_t>(value); };
    const Key key = {device,
                     n(p.factors),
                     n(p.result),
                     p.left.rows,
                     p.left.cols,
                     p.left.transposed,
                     p.right.rows,
                     p.right.cols,
                     p.right.transposed,
                     p.add != nullptr,
                     alignment_of(p.left.data),
                     alignment_of(p.right.data),
                     alignment_of(p.c),
                     p.bias == nullptr ? 0 : alignment_of(p.bias),
                     p.add == nullptr ? 0 : alignment_of(p.add)};
    auto& plans = kept<Plans>();
    const std::lock_guard<std::mutex> lock(plans.mutex);
    const auto found = plans.of.find(key);
    if (found != plans.of.end()) return found->second;
    return plans.of[key] = make_plan(calls, handle, desc, p);
}

}  // namespace

Gemm gemm_choice() { return choice().load(std::memory_order_relaxed); }

void cublaslt_multiply(const char* name, const LtProduct& p, Stream stream) {
    const Calls calls = {kept<Library>().get(name), name};
    const int device = current_device();
    const lt::Handle handle = handle_of(calls, device, stream);
    Owned<lt::Desc> desc(calls.f.cublasLtMatmulDescDestroy);
    BYHAND_LT(calls, cublasLtMatmulDescCreate, &desc.value, lt::kComputeFloat32, lt::kFloat32);
    describe(calls, desc.value, p);
    const Plan& plan = plan_of(calls, handle, desc.value, device, p);
    void* const room = plan.best.workspace > 0 ? workspace_of(name, stream) : nullptr;
    const float alpha = 1.0f, beta = p.add != nullptr ? 1.0f : 0.0f;
    BYHAND_LT(calls, cublasLtMatmul, handle, desc.value, &alpha, p.right.data, plan.right,
              p.left.data, plan.left, &beta, p.add != nullptr ? p.add : p.c, plan.c, p.c, plan.c,
              &plan.best.algorithm, room, room != nullptr ? kWorkspace : 0, stream.handle);
}

void bind_gemm(pybind11::module_& module) {
    module.def("gemm", [] { return gemm_choice() == Gemm::hand ? "hand" : "cublaslt"; });
    module.def("set_gemm", [](const std::string& text) {
        const Gemm asked = parsed("the matrix multiply", text);
        choice() = asked;
    });
    module.def("set_cublaslt_paths", [](std::vector<std::string> paths) {
        auto& library = kept<Library>();
        const std::lock_guard<std::mutex> lock(library.mutex);
        library.paths = std::move(paths);
    });
}

}  // namespace byhand
