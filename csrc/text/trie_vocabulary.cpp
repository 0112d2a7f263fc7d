#include "text/trie_vocabulary.h"

#include <limits>
#include <stdexcept>

namespace byhand::text {

TrieVocabulary::TrieVocabulary(const std::vector<std::string>& tokens, const std::vector<Id>& special) {
    if (tokens.size() > static_cast<std::size_t>(std::numeric_limits<Id>::max())) {
        throw std::invalid_argument("a vocabulary has at most 2147483647 tokens");
    }
    std::size_t total = 0;
    for (const std::string& token : tokens) total += token.size();
    bytes_.reserve(total);
    begins_.reserve(tokens.size() + 1);
    for (const std::string& token : tokens) {
        begins_.push_back(bytes_.size());
        bytes_ += token;
    }
    begins_.push_back(bytes_.size());

    std::vector<std::string_view> keys;
    keys.reserve(tokens.size());
    for (Id id = 0; id < size(); ++id) keys.push_back(token(id));
    for (const Id id : special) {
        if (id < 0 || id >= size()) {
            throw std::invalid_argument("the special id " + std::to_string(id) +
                                        " is outside the vocabulary of " +
                                        std::to_string(size()) + " tokens");
        }
        keys[static_cast<std::size_t>(id)] = {};
    }
    trie_ = Trie(keys);
    for (Id id = 0; id < size(); ++id) {
        const std::string_view name = token(id);
        if (name.empty()) continue;
        const bool plain = !keys[static_cast<std::size_t>(id)].empty();
        Id first = trie_.find(name);
        if (!plain) {
            const auto found = special_.emplace(name, id);
            if (first < 0) first = found.first->second;
        }
        if (first != id) {
            throw std::invalid_argument("the vocabulary has the token " + quoted(name) +
                                        " twice, with the ids " +
                                        std::to_string(first < id ? first : id) + " and " +
                                        std::to_string(first < id ? id : first));
        }
    }
}

Id TrieVocabulary::id_of(std::string_view token) const {
    if (token.empty()) return -1;
    const Id id = trie_.find(token);
    if (id >= 0) return id;
    const auto found = special_.find(token);
    return found == special_.end() ? -1 : found->second;
}

}  // namespace byhand::text
