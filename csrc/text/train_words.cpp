#include "text/train_words.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "text/hash.h"
#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

std::vector<Counted> sorted_words(const WordCounts& counts) {
    std::vector<Counted> words;
    words.reserve(counts.size());
    counts.each([&](std::string_view word, std::uint64_t count) {
        if (!word.empty() && count > 0) words.push_back({word, count});
    });
    if (words.empty()) {
        throw std::invalid_argument("there is nothing to train on: the text has no words");
    }
    std::sort(words.begin(), words.end(),
              [](const Counted& a, const Counted& b) { return a.word < b.word; });
    return words;
}

Alphabet::Alphabet(const std::vector<Counted>& words, double coverage, std::size_t most,
                   const std::vector<std::string>& always) {
    struct Hash {
        std::size_t operator()(std::string_view bytes) const { return hash_bytes(bytes); }
    };
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
    std::unordered_map<std::string_view, std::uint64_t, Hash> found;
    for (const Counted& counted : words) {
        for (std::size_t i = 0; i < counted.word.size();) {
            const std::size_t length = character_length(counted.word, i);
            std::uint64_t& count = found[counted.word.substr(i, length)];
            count += std::min(counted.count, kMost - count);
            total += static_cast<double>(counted.count);
            i += length;
        }
    }
    std::vector<std::pair<std::string_view, std::uint64_t>> order(found.begin(), found.end());
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return a.second != b.second ? a.second > b.second : a.first < b.first;
    });
    double covered = 0;
    for (const auto& [character, count] : order) {
        if (characters.size() >= most || covered >= coverage * total) break;
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
