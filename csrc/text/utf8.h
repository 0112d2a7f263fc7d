// UTF-8.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace byhand::text {

// Whether a byte continues a character.
inline bool continues(char byte) { return (byte & 0xC0) == 0x80; }

// The length in bytes of the character that begins there.
inline std::size_t character_length(std::string_view text, std::size_t begin) {
    const auto first = static_cast<unsigned char>(text[begin]);
    const std::size_t length = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    return std::min(length, text.size() - begin);
}

// Where the last character of text[0 .. end - 1] begins, end > 0.
inline std::size_t last_character(std::string_view text, std::size_t end) {
    std::size_t at = end - 1;
    while (at > 0 && continues(text[at])) --at;
    return at;
}

inline std::size_t count_characters(std::string_view text) {
    std::size_t count = 0;
    for (const char byte : text) count += !continues(byte);
    return count;
}

// The character that begins at bytes[at], at < bytes.size(); `length` becomes the number of its
// bytes. A byte that begins no character is U+FFFD of length 1, so that nothing is read beyond the
// end whatever the bytes are.
inline char32_t decode_utf8(std::string_view bytes, std::size_t at, std::size_t& length) {
    const auto byte = [&](std::size_t i) {
        return static_cast<char32_t>(static_cast<unsigned char>(bytes[at + i]));
    };
    const char32_t first = byte(0);
    length = 1;
    if (first < 0x80) return first;
    const std::size_t size = first < 0xC2   ? 1
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 1;
    if (size == 1 || bytes.size() - at < size) return 0xFFFD;
    char32_t code = first & (0x7F >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xC0) != 0x80) return 0xFFFD;
        code = code << 6 | (byte(i) & 0x3F);
    }
    if (code > 0x10FFFF) return 0xFFFD;
    length = size;
    return code;
}

inline void append_utf8(char32_t code, std::string& to) {
    const auto put = [&](char32_t byte) { to.push_back(static_cast<char>(byte)); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            put(0xE0 | code >> 12);
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
        }
        put(0x80 | (code >> 6 & 0x3F));
    }
    put(0x80 | (code & 0x3F));
}

}  // namespace byhand::text
