#include "text/pipeline_character.h"

namespace byhand::text {
namespace {
unsigned code_point(std::string_view t) {
    const auto b = [&](int i) { return static_cast<unsigned char>(t[i]); };
    switch (character_bytes(t[0])) {
        case 1: return b(0);
        case 2: return (b(0) & 31u) << 6 | (b(1) & 63u);
        case 3: return (b(0) & 15u) << 12 | (b(1) & 63u) << 6 | (b(2) & 63u);
        default: return (b(0) & 7u) << 18 | (b(1) & 63u) << 12 | (b(2) & 63u) << 6 | (b(3) & 63u);
    }
}
}  // namespace

bool is_space(std::string_view text) {
    const unsigned c = code_point(text);
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}
bool is_word(std::string_view text) {
    const unsigned c = code_point(text);
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           c >= 0xC0;
}
}  // namespace byhand::text
