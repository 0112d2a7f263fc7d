#include "text/charsmap.h"

#include <cstring>
#include <memory>
#include <stdexcept>

#include "text/unicode.h"

namespace byhand::text {
namespace {

// A unit of the double array. The children of node n are at n ^ offset ^ byte; the value, if it has
// one, at n ^ offset.
std::size_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & 512) >> 6); }
bool has_value(std::uint32_t unit) { return (unit & 256) != 0; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x800000FF; }
constexpr std::uint32_t kValueMask = 0x7FFFFFFF;

std::uint32_t read_32(std::string_view data, std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;) {
        value = value << 8 | static_cast<unsigned char>(data[at + i]);
    }
    return value;
}

// The end of the grapheme cluster at `at` (Unicode's annex 29). Only clusters of less than 6 bytes
// matter, so the rules for Hangul, flags and joined emoji, whose clusters are longer, are left out.
std::size_t cluster_end(std::string_view text, std::size_t at) {
    const Unicode& unicode = Unicode::tables();
    std::size_t length = 0;
    const auto code_at = [&](std::size_t i) { return decode_utf8(text, i, length); };
    const auto prepends = [](char32_t c) {
        return (c >= 0x600 && c <= 0x605) || c == 0x6DD || c == 0x70F || c == 0x890 || c == 0x891 ||
               c == 0x8E2;
    };
    const auto stands_alone = [](char32_t c) {  // spacing marks that join no cluster
        return c == 0x102B || c == 0x102C || c == 0x1038 || (c >= 0x1062 && c <= 0x1064) ||
               (c >= 0x1067 && c <= 0x106D) || c == 0x1083 || (c >= 0x1087 && c <= 0x108C) ||
               c == 0x108F || (c >= 0x109A && c <= 0x109C) || c == 0x1A61 || c == 0x1A63 ||
               c == 0x1A64 || c == 0xAA7B || c == 0xAA7D || c == 0x11720 || c == 0x11721;
    };
    const auto extends = [&](char32_t c) {  // Extend, ZWJ and SpacingMark
        return ((unicode.classes(c) & kMark) != 0 && !stands_alone(c)) || c == 0x200C ||
               c == 0x200D || c == 0xE33 || c == 0xEB3 || c == 0xFF9E || c == 0xFF9F ||
               (c >= 0x1F3FB && c <= 0x1F3FF) || (c >= 0xE0020 && c <= 0xE007F);
    };
    const auto controls = [&](char32_t c) {
        const Category category = unicode.category(c);
        return (category == Category::Cc || category == Category::Cf || category == Category::Zl ||
                category == Category::Zp) &&
               !extends(c) && !prepends(c);
    };
    if (text.compare(at, 2, "\r\n") == 0) return at + 2;
    char32_t code = code_at(at);
    at += length;
    if (controls(code)) return at;
    while (prepends(code) && at < text.size() && !controls(code_at(at))) {
        code = code_at(at);
        at += length;
    }
    while (at < text.size() && extends(code_at(at))) at += length;
    return at;
}

}  // namespace

Charsmap::Charsmap(std::string_view data) {
    if (data.size() < 4) throw std::invalid_argument("the precompiled_charsmap is cut short");
    const std::size_t size = read_32(data, 0);
    if (size % 4 != 0 || size == 0 || size > data.size() - 4) {
        throw std::invalid_argument(
            "the precompiled_charsmap does not hold the trie that it names");
    }
    units_.resize(size / 4);
    for (std::size_t i = 0; i < units_.size(); ++i) units_[i] = read_32(data, 4 + 4 * i);
    replacements_ = data.substr(4 + size);
    if (!replacements_.empty() && replacements_.back() != 0) {
        throw std::invalid_argument("the last replacement of the precompiled_charsmap has no end");
    }
    for (unsigned first = 0; first < 128; ++first) {
        const std::size_t node = child(0, static_cast<unsigned char>(first));
        keeps_[first] = node == 0 || !has_value(units_[node]);
        for (unsigned next = 0; next < 128 && node != 0; ++next) {
            if (child(node, static_cast<unsigned char>(next)) != 0) keeps_[first] = false;
        }
    }
}

std::size_t Charsmap::child(std::size_t node, unsigned char byte) const {
    const std::size_t next = node ^ offset_of(units_[node]) ^ byte;
    return next < units_.size() && label_of(units_[next]) == byte ? next : 0;
}

std::size_t Charsmap::find(std::string_view text, std::size_t at, bool longest,
                           std::string_view& with) const {
    std::size_t node = 0, found = 0;
    for (std::size_t i = at; i < text.size() && (longest || found == 0); ++i) {
        node = child(node, static_cast<unsigned char>(text[i]));
        if (node == 0) break;
        if (!has_value(units_[node])) continue;
        const std::size_t leaf = node ^ offset_of(units_[node]);
        if (leaf >= units_.size()) continue;
        const std::size_t begin = units_[leaf] & kValueMask;
        if (begin >= replacements_.size()) continue;
        found = i + 1 - at;
        with = std::string_view(replacements_.data() + begin);  // it ends before the 0
    }
    return found;
}

void Precompiled::apply(Text& text) const {
    const std::string_view bytes = text.bytes;
    std::unique_ptr<Rewrite> out;
    std::size_t kept = 0, cluster = 0;  // the end of the cluster whose characters are looked up
    std::string_view with;
    for (std::size_t at = 0, length = 0; at < bytes.size();) {
        const auto byte = static_cast<unsigned char>(bytes[at]);
        const auto next = at + 1 < bytes.size() ? static_cast<unsigned char>(bytes[at + 1]) : 0u;
        if (byte < 128 && next < 128 && charsmap_.keeps(byte)) {
            ++at;
            continue;
        }
        decode_utf8(bytes, at, length);
        std::size_t size = 0;  // of what is replaced
        if (longest_) {
            size = charsmap_.find(bytes, at, true, with);
        } else {
            if (at >= cluster) {
                cluster = cluster_end(bytes, at);
                if (cluster - at < 6 && charsmap_.find(bytes.substr(0, cluster), at, false, with)) {
                    size = cluster - at;
                }
            }
            if (size == 0) size = charsmap_.find(bytes.substr(0, at + length), at, false, with);
        }
        if (size == 0) {
            at += length;
            continue;
        }
        if (!out) out = std::make_unique<Rewrite>(text);
        out->keep(kept, at);
        out->replace(at, at + size, with);
        kept = at += size;
    }
    if (!out) return;
    out->keep(kept, bytes.size());
    out->finish(text);
}

}  // namespace byhand::text
