#include "text/train_words.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "text/hash.h"
#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

Alphabet::Alphabet(const WordCounts& words, double coverage, std::size_t most,
                   const std::vector<std::string>& always) {
    if (words.size() == 0) {
        throw std::invalid_argument("there is nothing to train on: the text has no words");
    }
    struct Hash {
        std::size_t operator()(std::string_view bytes) const { return hash_bytes(bytes); }
    };
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
    std::unordered_map<std::string_view, std::uint64_t, Hash> found;
    words.each([&](std::string_view word, std::uint64_t times) {
        for (std::size_t i = 0; i < word.size();) {
            const std::size_t length = character_length(word, i);
            std::uint64_t& count = found[word.substr(i, length)];
            count += std::min(times, kMost - count);
            total += std::min(times, kMost - total);
            i += length;
        }
    });
    std::vector<std::pair<std::string_view, std::uint64_t>> order(found.begin(), found.end());
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    double covered = 0;
    for (const auto& [character, count] : order) {
        if (characters.size() >= most || covered >= coverage * static_cast<double>(total)) break;
        characters.emplace_back(character);
        covered += static_cast<double>(count);
    }
    for (const std::string& character : always) {
        if (character.empty() || character_length(character, 0) != character.size()) {
            throw std::invalid_argument("an alphabet has single characters, not " +
                                        quoted(character));
        }
    }
    characters.insert(characters.end(), always.begin(), always.end());
    std::sort(characters.begin(), characters.end());
    characters.erase(std::unique(characters.begin(), characters.end()), characters.end());
}

bool Alphabet::has(std::string_view character) const {
    return std::binary_search(characters.begin(), characters.end(), character);
}

}  // namespace byhand::text
