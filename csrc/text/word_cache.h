// The tokens of words seen lately: natural text repeats its words, and finding them again costs
// less than encoding them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/hash.h"
#include "text/text.h"

namespace byhand::text {

// One place for each hash: a new word replaces the old one. Belongs to one thread.
class WordCache {
  public:
    static constexpr std::size_t kBytes = 24, kTokens = 6;

    // Appends the tokens of a word that begins at byte `at`, if they are here.
    bool find(std::string_view word, std::int64_t at, Tokens& out) {
        if (word.size() > kBytes) return false;
        if (entries_.empty()) {
            // A short text is encoded before the memory of a cache pays off.
            if (++asked_ < 512) return false;
            entries_.resize(kEntries);
        }
        const Key key = key_of(word);
        at_ = hash(key, word.size()) % kEntries;
        const Entry& entry = entries_[at_];
        if (entry.size != word.size() || entry.key != key) return false;
        for (std::size_t i = 0; i < entry.tokens; ++i) {
            out.add(entry.ids[i], at + entry.spans[2 * i], at + entry.spans[2 * i + 1]);
        }
        return true;
    }

    // Remembers the word that find() has just not found: its tokens are those from out.ids[first]
    // on, which must have spans.
    void put(std::string_view word, std::int64_t at, const Tokens& out, std::size_t first) {
        const std::size_t count = out.ids.size() - first;
        if (entries_.empty() || word.size() > kBytes || count > kTokens) return;
        Entry& entry = entries_[at_];
        entry.key = key_of(word);
        entry.size = static_cast<std::uint8_t>(word.size());
        entry.tokens = static_cast<std::uint8_t>(count);
        for (std::size_t i = 0; i < count; ++i) {
            entry.ids[i] = out.ids[first + i];
            entry.spans[2 * i] = static_cast<std::uint8_t>(out.spans[first + i].begin - at);
            entry.spans[2 * i + 1] = static_cast<std::uint8_t>(out.spans[first + i].end - at);
        }
    }

  private:
    static constexpr std::size_t kEntries = 8192;
    using Key = std::array<std::uint64_t, kBytes / 8>;
    struct Entry {
        Key key{};
        std::array<Id, kTokens> ids{};
        std::array<std::uint8_t, 2 * kTokens> spans{};
        std::uint8_t size = 0;  // 0: no word
        std::uint8_t tokens = 0;
    };

    static Key key_of(std::string_view word) {
        Key key{};
        for (std::size_t i = 0; 8 * i < word.size(); ++i) {
            key[i] =
                load_up_to_8(word.data() + 8 * i, std::min<std::size_t>(word.size() - 8 * i, 8));
        }
        return key;
    }
    static std::size_t hash(const Key& key, std::size_t size) {
        return static_cast<std::size_t>(hash_number(size ^ key[0] ^ key[1] * 0x9E3779B97F4A7C15u ^
                                                    key[2] * 0xD6E8FEB86659FD93u));
    }

    std::vector<Entry> entries_;
    std::size_t asked_ = 0, at_ = 0;
};

}  // namespace byhand::text
