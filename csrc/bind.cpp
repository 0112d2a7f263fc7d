// The registry: every native kernel. This file is compiled once and linked into all CPU back ends,
// so it must not depend on their instruction sets; the CUDA modules compile it for themselves.
//
// A line gives the names of a kernel's arguments, in the order of its declaration and without the
// stream. Their directions and types come from the declaration itself, in csrc/ops/<family>/<op>.h;
// CMake generates contracts.h, which includes all of these headers.
#include <pybind11/pybind11.h>

#include "contracts.h"
#include "core/binding.h"

#if defined(BYHAND_BACKEND_CUDA)
#include "core/device.h"
#else
#include "core/cache.h"
#include "core/roofline.h"
#include "simd/vecmath_probe.h"
#include "threads/threads.h"
#endif

// One kernel, and the two of an op: <op>_forward and <op>_backward.
#define KERNEL(name, arguments) define(registry, #name, arguments, &byhand::name)
#define OP(name, forward, backward)  \
    KERNEL(name##_forward, forward); \
    KERNEL(name##_backward, backward)

namespace byhand {
namespace {

// The operations: every back end has them.
void bind_operations(Registry& registry) {
    OP(activation, "y x function a b", "dx dy x y function a b");
    KERNEL(adagrad_step, "w v copy t work g norm lr weight_decay bounds lr_decay eps max_norm");
    KERNEL(adamw_step,
           "w m v copy t work g norm lr weight_decay bounds beta1 beta2 eps max_norm coupled");
    OP(attention,
       "o lse work q k v mask lengths slopes bias sequences scale causal window softcap dropout "
       "seed offset",
       "dq dk dv dbias work do_ q k v o lse mask lengths slopes bias sequences scale causal window "
       "softcap dropout seed offset");
    OP(bias_gelu, "y x b tanh", "dx db dy x b tanh");
    KERNEL(clip, "g norm max_norm");
    OP(cross_entropy, "loss count lse logits targets ignore_index smoothing mean",
       "dlogits dloss count lse logits targets ignore_index smoothing mean");
    KERNEL(cross_entropy_gradient,
           "loss count lse logits dloss targets ignore_index smoothing mean");
    OP(dropout, "y x add p seed offset", "dx dy p seed offset");
    OP(embedding, "y w ids add scale", "dw work dy ids scale");
    OP(gelu_ffn, "y pre h x w1 b1 w2 b2 add tanh bf16",
       "dx h dpre dw1 db1 dw2 db2 dy x pre w1 w2 tanh bf16");
    KERNEL(grad_norm, "norm work g");
    OP(layernorm, "y s mean rstd x w b add eps", "dx dw db work dy x w mean rstd ds");
    OP(linear, "y x w b add bf16", "dx dw db dy x w bf16");
    OP(linear_attention, "o norm q k v lengths causal", "dq dk dv do_ q k v o norm lengths causal");
    KERNEL(linear_cross_entropy_forward,
           "loss count dx dw work x w dloss targets ignore_index smoothing mean bf16");
    OP(log_softmax, "y x", "dx dy y");
    OP(matmul, "c a b transpose_a transpose_b bf16", "da db dc a b transpose_a transpose_b bf16");
    KERNEL(packed_linear_forward, "y x w b add format");
    KERNEL(packed_linear_pack, "words w format");
    OP(pointwise_loss, "loss losses prediction target function a mean",
       "dx dloss dlosses prediction target function a mean");
    OP(rmsnorm, "y s rstd x w add eps", "dx dw work dy x w rstd ds");
    KERNEL(rmsprop_step,
           "w v mean m copy t work g norm lr weight_decay bounds alpha eps momentum max_norm");
    OP(rope, "y x cos sin positions start interleaved",
       "dx dy cos sin positions start interleaved");
    KERNEL(sgd_step,
           "w m copy t work g norm lr weight_decay l1 l2 bounds momentum nesterov max_norm");
    OP(softmax, "y x mask scale causal", "dx dy y scale");
    OP(swiglu_ffn, "y gate up h x w1 b1 w3 b3 w2 b2 add function bf16",
       "dx h dgate dup dw1 db1 dw3 db3 dw2 db2 dy x gate up w1 w3 w2 function bf16");
    OP(weighted_cross_entropy,
       "loss total losses lse mass logits targets probabilities weight ignore_index smoothing mean "
       "normalise",
       "dlogits dloss dlosses total lse mass logits targets probabilities weight ignore_index "
       "smoothing mean");
}

#if !defined(BYHAND_BACKEND_CUDA)
// Probes, which are not operations: the tests and the benches measure the processor with them.
void bind_probes(Registry& registry) {
    KERNEL(vecmath_probe, "y x function");
    KERNEL(multiply_add_probe, "y s t rounds");
    KERNEL(copy_probe, "y x");
    KERNEL(read_probe, "sums x");
    KERNEL(triad_probe, "y a b s");
    if (multiplies_bf16()) KERNEL(bf16_dot_probe, "y s t rounds");
}
#endif

}  // namespace
}  // namespace byhand

PYBIND11_MODULE(BYHAND_MODULE, module) {
    using namespace byhand;
    Registry registry{module, py::dict()};
    bind_operations(registry);
#if defined(BYHAND_BACKEND_CUDA)
    bind_device(module);
    bind_gemm(module);
#else
    bind_probes(registry);
    module.def("num_threads", &num_threads);
    module.def("set_num_threads", &set_num_threads);
    module.def("last_level_cache", &last_level_cache);
    module.def("set_last_level_cache", &set_last_level_cache);
#endif
    module.attr("kernels") = registry.kernels;
}
