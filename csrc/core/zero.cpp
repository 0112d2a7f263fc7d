#include "core/zero.h"

#include <algorithm>

#include "core/rows.h"

namespace byhand {

void zero(float* y, std::int64_t n) {
    const bool large = n * std::int64_t{sizeof(float)} > last_level_cache();
    const Into place = large ? Into::memory : Into::caches;
    for_rows((n + kGrain - 1) / kGrain, kGrain, [=](std::int64_t block) {
        const std::int64_t begin = block * kGrain;
        write_words(y + begin, std::min(kGrain, n - begin), place,
                    [](std::int64_t, std::int64_t) { return Vec::zero(); });
    });
}

}  // namespace byhand
