// What the search for added tokens asks of a character.
#pragma once

#include <cstddef>
#include <string_view>

namespace byhand::text {

inline std::size_t character_bytes(char lead) {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Where the last character of a text that is not empty begins.
inline std::size_t last_character(std::string_view text) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (text[at] & 0xC0) == 0x80) --at;
    return at;
}

// Of the first character of a text: White_Space, and \w of regular expressions (letters, marks,
// decimal digits, connector punctuation, join controls).
bool is_space(std::string_view text);
bool is_word(std::string_view text);

}  // namespace byhand::text
