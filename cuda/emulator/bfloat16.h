// The type bfloat16: the upper half of a float.
#pragma once

#include <cstdint>
#include <cstring>

namespace byhand::emulator {

inline float float_of(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned bits_of(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

struct bf16 {
    std::uint16_t bits;
};

inline float to_float(bf16 x) { return float_of(static_cast<unsigned>(x.bits) << 16); }

// Rounds to nearest, ties to even; every NaN becomes the NaN of the GPU's conversion.
inline bf16 to_bf16(float x) {
    if (x != x) return {0x7fff};
    const unsigned bits = bits_of(x);
    return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline unsigned pack_bf16(float low, float high) {
    return static_cast<unsigned>(to_bf16(low).bits) | static_cast<unsigned>(to_bf16(high).bits)
                                                          << 16;
}

}  // namespace byhand::emulator
