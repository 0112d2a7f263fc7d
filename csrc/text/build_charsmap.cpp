#include <algorithm>
#include <stdexcept>

#include "text/charsmap.h"
#include "text/normalise.h"

namespace byhand::text {
namespace {

using Entries = std::vector<std::pair<std::string_view, std::uint32_t>>;  // sorted; key and value

// Puts a sorted list of keys into a double array, as Darts-clone would read it.
class DoubleArray {
  public:
    DoubleArray() {
        grow();
        used_[0] = true;  // the root
    }

    void add(const Entries& entries, std::size_t begin, std::size_t end, std::size_t depth,
             std::size_t node) {
        std::vector<std::pair<unsigned char, std::size_t>> children;  // label, first entry
        for (std::size_t i = begin; i < end; ++i) {
            const std::string_view key = entries[i].first;
            const auto label = static_cast<unsigned char>(key.size() > depth ? key[depth] : 0);
            if (children.empty() || children.back().first != label) children.push_back({label, i});
        }
        const std::size_t base = free_base(children);
        const std::size_t offset = node ^ base;
        if (offset >= std::size_t{1} << 21) {
            throw std::invalid_argument("there are too many replacements for a charsmap");
        }
        units_[node] = (units_[node] & 0xFF) | static_cast<std::uint32_t>(offset << 10);
        base_taken_[base] = true;
        for (const auto& [label, first] : children) {
            used_[base ^ label] = true;
            units_[base ^ label] = label;
        }
        for (std::size_t c = 0; c < children.size(); ++c) {
            const auto [label, first] = children[c];
            const std::size_t last = c + 1 < children.size() ? children[c + 1].second : end;
            if (label == 0) {
                units_[node] |= 256;
                units_[base] = entries[first].second | 0x80000000u;
            } else {
                add(entries, first, last, depth + 1, base ^ label);
            }
        }
    }

    // Units that are not used get a label that no text has: 0xFF is never in UTF-8.
    std::vector<std::uint32_t> finish() {
        for (std::size_t i = 0; i < units_.size(); ++i) {
            if (!used_[i]) units_[i] = 0xFF;
        }
        return units_;
    }

  private:
    void grow() {  // by blocks of 256, inside which a base and its children stay
        units_.resize(units_.size() + 256);
        used_.resize(units_.size());
        base_taken_.resize(units_.size());
    }

    // Bases are not shared, so that a byte never leads to the child of another node.
    std::size_t free_base(const std::vector<std::pair<unsigned char, std::size_t>>& children) {
        for (std::size_t at = first_free_;; ++at) {
            while (at >= units_.size()) grow();
            if (used_[at]) {
                if (at == first_free_) ++first_free_;
                continue;
            }
            const std::size_t base = at ^ children.front().first;
            const bool fits = !base_taken_[base] && base != 0 &&
                              std::all_of(children.begin(), children.end(), [&](const auto& child) {
                                  return !used_[base ^ child.first];
                              });
            if (fits) return base;
            // A block that takes long to search is left behind with a few units unused.
            if (at > first_free_ + 4096) ++first_free_;
        }
    }

    std::vector<std::uint32_t> units_;
    std::vector<bool> used_, base_taken_;
    std::size_t first_free_ = 1;
};

void append_32(std::uint32_t value, std::string& to) {
    for (int shift = 0; shift < 32; shift += 8)
        to.push_back(static_cast<char>(value >> shift & 255));
}

}  // namespace

std::string build_charsmap(const std::map<std::string, std::string>& replacements) {
    std::string strings;
    std::map<std::string, std::uint32_t> known;
    Entries entries;
    for (const auto& [key, with] : replacements) {
        if (key.empty() || key.find('\0') != std::string::npos) {
            throw std::invalid_argument("a key of a charsmap is empty or has a byte 0");
        }
        const auto [found, is_new] =
            known.emplace(with, static_cast<std::uint32_t>(strings.size()));
        if (is_new) strings.append(with).push_back('\0');
        entries.push_back({key, found->second});
    }
    DoubleArray array;
    if (!entries.empty()) array.add(entries, 0, entries.size(), 0, 0);
    std::string data;
    const std::vector<std::uint32_t> units = array.finish();
    append_32(static_cast<std::uint32_t>(4 * units.size()), data);
    for (std::uint32_t unit : units) append_32(unit, data);
    return data + strings;
}

std::string nmt_nfkc_charsmap() {
    const Unicode& unicode = Unicode::tables();
    std::map<std::string, std::string> replacements;
    const auto add = [&](std::u32string_view codes) {
        std::string key;
        for (char32_t code : codes) append_utf8(code, key);
        Text text(key);
        Nmt().apply(text);
        NormalForm(Form::nfkc).apply(text);
        if (text.bytes != key) replacements[key] = text.bytes;
    };
    std::u32string parts;
    // From U+30000 on, no character of Unicode 16 decomposes.
    for (char32_t code = 1; code < 0x30000; ++code) {
        if (code >= 0xD800 && code < 0xE000) continue;
        add({&code, 1});
        parts.clear();
        unicode.decompose(code, false, parts);
        if (parts.size() < 2) continue;
        add(parts);
        // What composes from left to right may be composed in part already.
        char32_t first = parts[0];
        for (std::size_t i = 1; i + 1 < parts.size(); ++i) {
            first = unicode.compose(first, parts[i]);
            if (first == 0) break;
            add(first + parts.substr(i + 1));
        }
    }
    // SentencePiece's exceptions: the zero width joiner of emoji and the full width tilde stay.
    replacements.erase("\u200D");
    replacements.erase("\uFF5E");
    replacements["\u061C"] = " ";
    return build_charsmap(replacements);
}

}  // namespace byhand::text
