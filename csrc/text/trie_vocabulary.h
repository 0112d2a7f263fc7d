// The tokens of a model that looks its tokens up in a trie: WordPiece, WordLevel, Unigram.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/text.h"
#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

class TrieVocabulary {
public:
    // tokens[id]; an empty one is an id without a token. The tokens of the ids in `special` have
    // their ids, but are not in the trie: no text matches them. Throws std::invalid_argument if a
    // token occurs twice or an id in `special` is out of range.
    TrieVocabulary(const std::vector<std::string>& tokens, const std::vector<Id>& special);
    TrieVocabulary(const TrieVocabulary&) = delete;  // special_ has views of bytes_
    TrieVocabulary& operator=(const TrieVocabulary&) = delete;

    std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
    std::string_view token(Id id) const {
        const auto i = static_cast<std::size_t>(id);
        return std::string_view(bytes_).substr(begins_[i], begins_[i + 1] - begins_[i]);
    }
    Id id_of(std::string_view token) const;  // special ones too; -1 if there is none
    const Trie& trie() const { return trie_; }

private:
    std::string bytes_;
    std::vector<std::size_t> begins_;
    std::unordered_map<std::string_view, Id> special_;
    Trie trie_;
};

inline std::size_t character_length(unsigned char first) {
    return first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

}  // namespace byhand::text
