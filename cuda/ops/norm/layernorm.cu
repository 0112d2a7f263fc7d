#include "ops/norm/layernorm.h"
#include "ops/norm/norm_rows.cuh"

namespace byhand {

void layernorm_forward(Out y, Maybe<Out> s, Out mean, Out rstd, In x, In w, Maybe<In> b,
                       Maybe<In> add, double eps, Stream stream) {
    const char* name = "layernorm_forward";
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const NormForward<T> a(name, y, s, mean, rstd, x, w, b, add, eps);
        norm_forward<true>(name, a, stream);
    });
}

void layernorm_backward(Out dx, Acc dw, Acc db, Out work, In dy, In x, In w, In mean, In rstd,
                        Maybe<In> ds, Stream stream) {
    const char* name = "layernorm_backward";
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const NormBackward<T> a(name, dx, dw, db, work, dy, x, w, mean, rstd, ds);
        norm_backward<true>(name, a, stream);
    });
}

}  // namespace byhand
