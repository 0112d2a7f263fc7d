// The properties of characters in Unicode 16.0 (unicode_data.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace byhand::text {

// How many of the bytes from `at` on are ASCII, counted in steps of 8: the rest may be ASCII too.
std::size_t ascii_prefix(std::string_view bytes, std::size_t at);

// How many ASCII letters, of either case or lower case, the 8 bytes from `at` on begin with. It has
// no loop over bytes: a processor would often predict the end of such a loop wrongly.
template <bool either_case>
std::size_t ascii_letters(const char* at) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    constexpr std::uint64_t ones = 0x0101010101010101u, high = 0x80 * ones;
    std::uint64_t bytes;
    std::memcpy(&bytes, at, 8);
    const std::uint64_t low = (either_case ? bytes | 0x20 * ones : bytes) & ~high;
    const std::uint64_t from_a = low + (0x80 - 'a') * ones;  // sets the high bits of 'a' and above
    const std::uint64_t above_z = low + (0x80 - 'z' - 1) * ones;
    const std::uint64_t others = ~(from_a & ~above_z & ~bytes) & high;
    return others == 0 ? 8 : static_cast<std::size_t>(__builtin_ctzll(others)) / 8;
#else
    std::size_t count = 0;
    for (; count < 8; ++count) {
        const char c = either_case ? static_cast<char>(at[count] | 0x20) : at[count];
        if (c < 'a' || c > 'z') break;
    }
    return count;
#endif
}

// Skips ASCII letters from `at` on, all but perhaps some of the last 8 bytes of the text.
template <bool either_case>
std::size_t after_letters(std::string_view text, std::size_t at) {
    while (text.size() - at >= 8) {
        const std::size_t letters = ascii_letters<either_case>(text.data() + at);
        at += letters;
        if (letters < 8) break;
    }
    return at;
}

enum class Category : std::uint8_t {  // the order of make_unicode.py
    Cn,
    Lu,
    Ll,
    Lt,
    Lm,
    Lo,
    Mn,
    Mc,
    Me,
    Nd,
    Nl,
    No,
    Pc,
    Pd,
    Ps,
    Pe,
    Pi,
    Pf,
    Po,
    Sm,
    Sc,
    Sk,
    So,
    Zs,
    Zl,
    Zp,
    Cc,
    Cf,
    Cs,
    Co
};

// Classes of characters that the parts of a tokenizer ask for. A character may be in several.
enum : std::uint16_t {
    kLetter = 1,               // \p{L}
    kNumber = 2,               // \p{N}
    kSpace = 4,                // White_Space: \s of the regex engines
    kNewline = 8,              // \r and \n
    kMark = 16,                // \p{M}
    kNonspacing = 32,          // \p{Mn}
    kUpper = 64,               // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
    kLower = 128,              // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
    kWord = 256,               // \w of Rust's regex: Unicode's annex C of UTS 18
    kPunctuation = 512,        // \p{P}
    kAsciiPunctuation = 1024,  // printable ASCII but letters, digits and the space
    kControl = 2048,           // Cc, Cf and Co
    kOther = 4096              // [^\s\p{L}\p{N}]
};

// Values for all code points: blocks of 128, equal blocks stored once.
template <class Value>
class CodeTable {
  public:
    CodeTable() : blocks_(0x110000 / 128, 0), values_(128, Value{}) {}
    Value operator[](char32_t code) const {
        return values_[blocks_[code >> 7] * 128u + (code & 127)];
    }
    // For building only: a block that is written to becomes its own.
    Value& at(char32_t code) {
        std::uint16_t& block = blocks_[code >> 7];
        if (block == 0) {
            block = static_cast<std::uint16_t>(values_.size() / 128);
            values_.resize(values_.size() + 128);
        }
        return values_[block * 128u + (code & 127)];
    }
    void assign(const std::vector<Value>& all);  // a value for each code point

  private:
    std::vector<std::uint16_t> blocks_;
    std::vector<Value> values_;
};

enum class Form { nfc, nfd, nfkc, nfkd };

class Unicode {
  public:
    static const Unicode& tables();  // made at the first call

    std::uint16_t classes(char32_t code) const { return classes_[code]; }
    Category category(char32_t code) const { return categories_[code]; }
    std::uint8_t combining(char32_t code) const { return combining_[code]; }
    // Not changed by the form, whatever stands next to it, and no mark that is put in order.
    bool stable(char32_t code, Form form) const {
        return (unstable_[code] >> static_cast<int>(form) & 1) == 0;
    }
    // The full lower case, if it differs from the character.
    std::u32string_view lower(char32_t code) const { return view(lower_[code]); }
    // Appends the full decomposition: canonical, or with compatibility. Without one, the character.
    void decompose(char32_t code, bool compatibility, std::u32string& to) const;
    // The character that the two compose to, or 0.
    char32_t compose(char32_t first, char32_t second) const;

  private:
    Unicode();
    void read_categories();
    std::vector<char32_t> read_decompositions();  // returns what decomposes
    void find_unstable(const std::vector<char32_t>& decomposing);
    std::uint16_t store(std::u32string_view text);
    std::u32string_view view(std::uint16_t entry) const {
        return std::u32string_view(pool_).substr(entries_[entry].first, entries_[entry].second);
    }

    CodeTable<Category> categories_;
    CodeTable<std::uint16_t> classes_;
    CodeTable<std::uint8_t> combining_, unstable_;
    CodeTable<std::uint16_t> lower_, canonical_, compatible_;  // indices of entries_; 0 is none
    // Of each text its begin and size in pool_.
    std::vector<std::pair<std::uint32_t, std::uint32_t>> entries_{{0, 0}};
    std::u32string pool_;
    std::vector<std::pair<std::uint64_t, char32_t>> compositions_;  // sorted by the pair
};

// Whether the character that begins at text[at] has one of these classes; `end` becomes its end.
inline bool is_at(std::string_view text, std::size_t at, std::uint16_t classes, std::size_t& end) {
    std::size_t length = 0;
    const char32_t code = decode_utf8(text, at, length);
    end = at + length;
    return (Unicode::tables().classes(code) & classes) != 0;
}
inline bool is_at(std::string_view text, std::size_t at, std::uint16_t classes) {
    std::size_t end = 0;
    return is_at(text, at, classes, end);
}

}  // namespace byhand::text
