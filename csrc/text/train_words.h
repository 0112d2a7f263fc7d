// What the trainers of WordPiece and Unigram share: counted words, and which characters are known.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/counts.h"

namespace byhand::text {

struct Alphabet {
    // Characters of the words by descending count, ties by their bytes: as many as make up
    // `coverage` of all, at most `most` of them; and those of `always`. std::invalid_argument if
    // there are no words.
    Alphabet(const WordCounts& words, double coverage, std::size_t most,
             const std::vector<std::string>& always);
    bool has(std::string_view character) const;

    std::vector<std::string> characters;  // ordered by their bytes
    std::uint64_t total = 0;              // all characters of the words, counted; at most 2^64 - 1
};

}  // namespace byhand::text
