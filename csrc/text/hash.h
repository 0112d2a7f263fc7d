// Hash functions for tables of words and of pairs. No result depends on them, only speed.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace byhand::text {

inline std::uint64_t hash_number(std::uint64_t x) {
    x ^= x >> 32;
    x *= 0x9E3779B97F4A7C15u;
    x ^= x >> 29;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ (x >> 32);
}

// The first `size` <= 8 bytes at `at`, then zeros. Reads no other byte.
inline std::uint64_t load_up_to_8(const char* at, std::size_t size) {
    std::uint64_t all = 0;
    if (size == 8) {
        std::memcpy(&all, at, 8);
    } else if (size >= 4) {  // two loads that overlap
        std::uint32_t low, high;
        std::memcpy(&low, at, 4);
        std::memcpy(&high, at + size - 4, 4);
        all = low | std::uint64_t{high} << (8 * (size - 4));
    } else {
        for (std::size_t i = 0; i < size; ++i) {
            all |= std::uint64_t{static_cast<unsigned char>(at[i])} << (8 * i);
        }
    }
    return all;
}

inline std::uint64_t hash_bytes(std::string_view bytes) {
    const char* at = bytes.data();
    std::size_t left = bytes.size();
    std::uint64_t hash = left * 0xA0761D6478BD642Fu;
    for (; left > 8; at += 8, left -= 8) {
        std::uint64_t next;
        std::memcpy(&next, at, 8);
        hash = (hash ^ next) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 31;
    }
    return hash_number(hash ^ load_up_to_8(at, left));
}

}  // namespace byhand::text
