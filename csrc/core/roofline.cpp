#include "core/roofline.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "core/rows.h"
#include "simd/tiles.h"
#include "simd/vec.h"
#include "threads/threads.h"

namespace byhand {
namespace {

// Two multipliers of latency 4 need 8 independent vectors, separate multiply and add a few more; 12
// leave registers for the constants on every instruction set.
constexpr int kChains = 12;

// y = step(y), `rounds` times, on kChains vectors at a time in registers.
template <class Step>
void iterate(float* y, std::int64_t n, std::int64_t rounds, Step step) {
    constexpr std::int64_t w = Vec::width;
    for (std::int64_t i = 0; i < n; i += kChains * w) {
        Vec word[kChains];
        BYHAND_UNROLL
        for (int c = 0; c < kChains; ++c) {
            const std::int64_t at = i + c * w;
            word[c] = at < n ? Vec::load(y + at, n - at) : Vec::zero();
        }
        for (std::int64_t round = 0; round < rounds; ++round) {
            BYHAND_UNROLL
            for (int c = 0; c < kChains; ++c) word[c] = step(word[c]);
        }
        BYHAND_UNROLL
        for (int c = 0; c < kChains; ++c) {
            const std::int64_t at = i + c * w;
            if (at < n) word[c].store(y + at, n - at);
        }
    }
}

template <class Step>
void iterate_rows(Mut y, std::int64_t rounds, Step step) {
    float* const data = y.as<float>();
    const std::int64_t cols = y.cols();
    parallel_for(y.rows(), 1, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) iterate(data + r * cols, cols, rounds, step);
    });
}

// Calls body(begin, n) for blocks of `size` elements, in parallel.
template <class Body>
void for_blocks(std::int64_t size, Body&& body) {
    for_rows((size + kGrain - 1) / kGrain, kGrain, [&](std::int64_t block) {
        const std::int64_t begin = block * kGrain;
        body(begin, std::min(kGrain, size - begin));
    });
}

}  // namespace

void multiply_add_probe(Mut y, double s, double t, std::int64_t rounds, Stream) {
    const Vec scale = Vec::set(static_cast<float>(s)), shift = Vec::set(static_cast<float>(t));
    iterate_rows(y, rounds, [=](Vec word) { return fma(word, scale, shift); });
}

#if defined(BYHAND_BF16_PAIRS)
bool multiplies_bf16() { return true; }

void bf16_dot_probe(Mut y, double s, double t, std::int64_t rounds, Stream) {
    // Each pair of bfloat16 fills the place of one float.
    const __m512 even = _mm512_set1_ps(static_cast<float>(s));
    const __m512 odd = _mm512_set1_ps(static_cast<float>(t));
    const __m512bh both = _mm512_cvtne2ps_pbh(odd, even);
    const __m512i order = _mm512_set1_epi32(16 << 16);  // lane 0 of s, then lane 0 of t
    const __m512bh pair = (__m512bh)_mm512_maskz_permutexvar_epi16(~0u, order, (__m512i)both);
    iterate_rows(y, rounds, [=](Vec word) { return Vec{_mm512_dpbf16_ps(word.v, pair, pair)}; });
}
#else
bool multiplies_bf16() { return false; }

void bf16_dot_probe(Mut, double, double, std::int64_t, Stream) {
    throw std::logic_error("this back end has no instruction for bfloat16");
}
#endif

#if defined(BYHAND_TILES)
bool multiplies_tiles() { return has_tiles(); }

namespace {

// Four tiles of sums, enough to hide the latency of the multiplication.
constexpr std::int64_t kTileFloats = kTileRows * kTileWords, kTileChains = 4 * kTileFloats;

BYHAND_TILE_FUNCTION void iterate_tiles(float* sums, const float* pairs, std::int64_t rounds) {
    std::atomic_signal_fence(std::memory_order_seq_cst);  // see gemm_amx.h
    _tile_loadd(0, sums, kTileBytes);
    _tile_loadd(1, sums + kTileFloats, kTileBytes);
    _tile_loadd(2, sums + 2 * kTileFloats, kTileBytes);
    _tile_loadd(3, sums + 3 * kTileFloats, kTileBytes);
    _tile_loadd(4, pairs, kTileBytes);
    _tile_loadd(5, pairs, kTileBytes);
    for (std::int64_t round = 0; round < rounds; ++round) {
        _tile_dpbf16ps(0, 4, 5);
        _tile_dpbf16ps(1, 4, 5);
        _tile_dpbf16ps(2, 4, 5);
        _tile_dpbf16ps(3, 4, 5);
    }
    _tile_stored(0, sums, kTileBytes);
    _tile_stored(1, sums + kTileFloats, kTileBytes);
    _tile_stored(2, sums + 2 * kTileFloats, kTileBytes);
    _tile_stored(3, sums + 3 * kTileFloats, kTileBytes);
}

}  // namespace

void bf16_tile_probe(Mut y, double s, double t, std::int64_t rounds, Stream) {
    alignas(64) float pairs[kTileFloats];
    const Vec even = Vec::set(static_cast<float>(s)), odd = Vec::set(static_cast<float>(t));
    for (std::int64_t i = 0; i < kTileFloats; i += Vec::width) {
        pairs_across(even, odd).store(pairs + i);
    }
    float* const data = y.as<float>();
    const std::int64_t cols = y.cols();
    parallel_for(y.rows(), 1, [&](std::int64_t begin, std::int64_t end) {
        const Tiles registers;
        alignas(64) float sums[kTileChains];
        for (std::int64_t r = begin; r < end; ++r) {
            for (std::int64_t i = 0; i < cols; i += kTileChains) {
                float* const from = data + r * cols + i;
                const std::int64_t n = std::min(kTileChains, cols - i);
                std::copy(from, from + n, sums);
                std::fill(sums + n, sums + kTileChains, 0.0f);
                iterate_tiles(sums, pairs, rounds);
                std::copy(sums, sums + n, from);
            }
        }
    });
}
#else
bool multiplies_tiles() { return false; }

void bf16_tile_probe(Mut, double, double, std::int64_t, Stream) {
    throw std::logic_error("this back end has no tile registers");
}
#endif

void copy_probe(Out y, In x, Stream) {
    float* const yp = y.as<float>();
    const float* const xp = x.as<float>();
    const Into place = place_for(yp, y.size(), {xp});
    for_blocks(y.size(), [=](std::int64_t begin, std::int64_t n) {
        write_words(yp + begin, n, place, [=](std::int64_t i, std::int64_t lanes) {
            return Vec::load(xp + begin + i, lanes);
        });
    });
}

void read_probe(Out sums, In x, Stream) {
    float* const out = sums.as<float>();
    const float* const xp = x.as<float>();
    const std::int64_t n = x.size(), slices = sums.size();
    parallel_for(slices, 1, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t g = begin; g < end; ++g) {
            const std::int64_t from = n * g / slices, to = n * (g + 1) / slices;
            out[g] = sum_row(xp + from, to - from);
        }
    });
}

void triad_probe(Out y, In a, In b, double s, Stream) {
    float* const yp = y.as<float>();
    const float *const ap = a.as<float>(), *const bp = b.as<float>();
    const Vec scale = Vec::set(static_cast<float>(s));
    const Into place = place_for(yp, y.size(), {ap, bp});
    for_blocks(y.size(), [=](std::int64_t begin, std::int64_t n) {
        write_words(yp + begin, n, place, [=](std::int64_t i, std::int64_t lanes) {
            const std::int64_t at = begin + i;
            return fma(Vec::load(bp + at, lanes), scale, Vec::load(ap + at, lanes));
        });
    });
}

}  // namespace byhand
