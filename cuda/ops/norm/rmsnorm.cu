#include "ops/norm/norm_rows.cuh"
#include "ops/norm/rmsnorm.h"

namespace byhand {

void rmsnorm_forward(Out y, Maybe<Out> s, Out rstd, In x, In w, Maybe<In> add, double eps,
                     Stream stream) {
    const char* name = "rmsnorm_forward";
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const NormForward<T> a(name, y, s, {}, rstd, x, w, {}, add, eps);
        norm_forward<false>(name, a, stream);
    });
}

void rmsnorm_backward(Out dx, Acc dw, Out work, In dy, In x, In w, In rstd, Maybe<In> ds,
                      Stream stream) {
    const char* name = "rmsnorm_backward";
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const NormBackward<T> a(name, dx, dw, {}, work, dy, x, w, {}, rstd, ds);
        norm_backward<false>(name, a, stream);
    });
}

}  // namespace byhand
