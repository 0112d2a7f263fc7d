#include "ops/elementwise/dropout.h"

#include <algorithm>

#include "core/rows.h"
#include "random/philox_words.h"

namespace byhand {
namespace {

// Random bits are drawn for this many elements at a time: few enough that the processor computes
// the next bits while it waits for these elements.
constexpr std::int64_t kBlock = 256;

void drop_block(float* y, const float* x, const float* add, const std::uint16_t* bits,
                const DropoutRule& rule, std::int64_t n, Into place) {
    write_words(y, n, place, [=](std::int64_t i, std::int64_t lanes) {
        const Vec kept = Vec::load(x + i, lanes) * Vec::set(rule.scale);
        const Vec dropped = select(below(bits + i, rule.threshold), Vec::zero(), kept);
        return add ? dropped + Vec::load(add + i, lanes) : dropped;
    });
}

void drop(float* y, const float* x, const float* add, std::int64_t n, double p, std::uint64_t seed,
          std::uint64_t offset) {
    const DropoutRule rule(p);
    const Into place = place_for(y, n, {x, add});
    for_rows((n + kBlock - 1) / kBlock, kBlock, [=](std::int64_t block) {
        std::uint16_t bits[kBlock];
        const std::int64_t at = block * kBlock, length = std::min(kBlock, n - at);
        const auto group = static_cast<std::uint64_t>(at / kPhiloxElements);
        philox_bits(bits, length, seed, group, offset);
        drop_block(y + at, x + at, add ? add + at : nullptr, bits, rule, length, place);
    });
}

}  // namespace

void dropout_forward(Out y, In x, Maybe<In> add, double p, std::uint64_t seed, Offset offset,
                     Stream) {
    drop(y.as<float>(), x.as<float>(), add.as<float>(), x.size(), p, seed, offset.value());
}

void dropout_backward(Out dx, In dy, double p, std::uint64_t seed, Offset offset, Stream) {
    drop(dx.as<float>(), dy.as<float>(), nullptr, dy.size(), p, seed, offset.value());
}

}  // namespace byhand
