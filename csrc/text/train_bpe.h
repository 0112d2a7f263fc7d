// Learning byte-pair encoding from counted words (Sennrich et al. 2016): the pair of neighbours
// that is most frequent becomes a token, again and again.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/counts.h"
#include "text/threads.h"

namespace byhand::text {

struct BpeTraining {
    std::int64_t vocabulary_size = 0;  // with the special tokens
    std::uint64_t min_frequency = 0;   // of a pair that may become a token
    std::vector<std::string> special_tokens;
    std::string prefix, suffix;  // of characters that do not begin a word; that end one
    bool byte_level = true;      // words are bytes, not characters
    std::optional<std::size_t> limit_alphabet;    // keep so many characters, the most frequent
    std::vector<std::string> initial_alphabet;    // characters that are tokens in any case
    std::optional<std::size_t> max_token_length;  // in bytes if byte_level, else in characters
};

struct LearnedBpe {
    std::vector<std::string> vocabulary;
    std::vector<std::pair<std::string, std::string>> merges;
};

// The vocabulary: byte_level: the 256 bytes, the merges in order, the special tokens. Else: the
// special tokens, the characters in the order of their bytes, those with prefix or suffix, the
// merges. It is smaller than asked for if no pair is left.
//
// Of pairs with equal counts the one with the lower ids is merged (first that of the left token).
// Two neighbours of a run such as "aaa" count as two pairs. The result depends on nothing else: not
// on the order of the words, nor on threads. Memory: 2 bytes for each unit of the distinct words (4
// if there are more than 65,000 tokens) and 10 for each word, then 1 more for each unit, or 16 MB,
// and tables of about 20 MB; `counts` is left empty.
// Throws std::invalid_argument if the vocabulary is too small for the alphabet or nothing is to be
// learned.
LearnedBpe train_bpe(WordCounts& counts, const BpeTraining& training, const Progress& progress);

}  // namespace byhand::text
