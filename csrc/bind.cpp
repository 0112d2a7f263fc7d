// THE REGISTRY: every native kernel, one line each, compiled once per back end.
//
// Each line gives the kernel and its arguments as Python passes them; their directions and types
// come from the C++ signature. Adding a kernel to a back end is adding its line here.
#include <pybind11/pybind11.h>

#include "core/caster.h"
#include "ops/attention/attention.h"
#include "ops/attention/softmax.h"
#include "ops/elementwise/bias_gelu.h"
#include "ops/elementwise/dropout.h"
#include "ops/embedding/embedding.h"
#include "ops/linear/gelu_ffn.h"
#include "ops/linear/linear.h"
#include "ops/linear/matmul.h"
#include "ops/loss/cross_entropy.h"
#include "ops/loss/linear_cross_entropy.h"
#include "ops/norm/layernorm.h"
#include "ops/norm/rmsnorm.h"
#include "ops/optim/adamw.h"
#include "ops/optim/grad_norm.h"

#if defined(BYHAND_BACKEND_CUDA)
#include "core/device.h"
#else
#include "core/cache.h"
#include "core/roofline.h"
#include "simd/vec.h"
#include "simd/vecmath_probe.h"
#include "threads/threads.h"
#endif

#define KERNEL(name, arguments) define(registry, #name, arguments, &byhand::name)

namespace byhand {
namespace {

// The operations: every back end has them.
void bind_operations(Registry& registry) {
    KERNEL(softmax_forward, "y x mask scale causal");
    KERNEL(softmax_backward, "dx dy y scale");
    KERNEL(log_softmax_forward, "y x");
    KERNEL(log_softmax_backward, "dx dy y");
    KERNEL(layernorm_forward, "y s mean rstd x w b add eps");
    KERNEL(layernorm_backward, "dx dw db work dy x w mean rstd ds");
    KERNEL(rmsnorm_forward, "y s rstd x w add eps");
    KERNEL(rmsnorm_backward, "dx dw work dy x w rstd ds");
    KERNEL(cross_entropy_forward, "loss count lse logits targets ignore_index smoothing mean");
    KERNEL(cross_entropy_backward,
           "dlogits dloss count lse logits targets ignore_index smoothing mean");
    KERNEL(cross_entropy_gradient,
           "loss count lse logits dloss targets ignore_index smoothing mean");
    KERNEL(embedding_forward, "y w ids add");
    KERNEL(embedding_backward, "dw work dy ids");
    KERNEL(dropout_forward, "y x add p seed offset");
    KERNEL(dropout_backward, "dx dy p seed offset");
    KERNEL(adamw_step, "w m v copy t work g norm lr weight_decay bounds beta1 beta2 eps max_norm");
    KERNEL(grad_norm, "norm work g");
    KERNEL(clip, "g norm max_norm");
    KERNEL(attention_forward,
           "o lse work q k v mask lengths scale causal window dropout seed offset");
    KERNEL(attention_backward,
           "dq dk dv work do_ q k v o lse mask lengths scale causal window dropout seed offset");
    KERNEL(bias_gelu_forward, "y x b tanh");
    KERNEL(bias_gelu_backward, "dx db dy x b tanh");
    KERNEL(linear_forward, "y x w b add bf16");
    KERNEL(linear_backward, "dx dw db dy x w bf16");
    KERNEL(linear_cross_entropy_forward,
           "loss count dx dw work x w targets ignore_index smoothing mean dloss bf16");
    KERNEL(gelu_ffn_forward, "y pre h x w1 b1 w2 b2 add tanh bf16");
    KERNEL(gelu_ffn_backward, "dx h dpre dw1 db1 dw2 db2 dy x pre w1 w2 tanh bf16");
    KERNEL(matmul_forward, "c a b transpose_a transpose_b bf16");
    KERNEL(matmul_backward, "da db dc a b transpose_a transpose_b bf16");
}

#if !defined(BYHAND_BACKEND_CUDA)
// No operations: they show the module and the machine to the tests and to the bench.
void bind_probes(Registry& registry) {
    KERNEL(vecmath_probe, "y x function");
    KERNEL(multiply_add_probe, "y s t rounds");
    KERNEL(copy_probe, "y x");
    KERNEL(read_probe, "sums x");
    KERNEL(triad_probe, "y a b s");
#if defined(__AVX512BF16__)
    KERNEL(bf16_dot_probe, "y s t rounds");
#endif
}
#endif

}  // namespace
}  // namespace byhand

PYBIND11_MODULE(BYHAND_MODULE, module) {
    using namespace byhand;
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const TypeError& e) {
            PyErr_SetString(PyExc_TypeError, e.what());
        }
    });
    Registry registry{module, py::dict()};
    bind_operations(registry);
#if defined(BYHAND_BACKEND_CUDA)
    bind_device(module);
    bind_gemm(module);
#else
    bind_probes(registry);
    module.attr("vector_width") = Vec::width;
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads);
    module.def("last_level_cache", &last_level_cache);
    module.def("set_last_level_cache", &set_last_level_cache);
#endif
    module.attr("kernels") = registry.kernels;
}
