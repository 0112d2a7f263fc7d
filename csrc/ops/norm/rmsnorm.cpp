#include "ops/norm/rmsnorm.h"

#include "ops/norm/norm_rows.h"

namespace byhand {

void rmsnorm_forward(Out y, Maybe<Out> s, Out rstd, In x, In w, Maybe<In> add, double eps, Stream) {
    norm_forward<false>({"rmsnorm_forward", y, s, {}, rstd, x, w, {}, add, eps});
}

void rmsnorm_backward(Out dx, Acc dw, Out work, In dy, In x, In w, In rstd, Maybe<In> ds, Stream) {
    norm_backward<false>({"rmsnorm_backward", dx, dw, {}, work, dy, x, w, {}, rstd, ds});
}

}  // namespace byhand
