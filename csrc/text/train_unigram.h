// Learns the vocabulary of a Unigram model (Kudo 2018, arXiv:1804.10959, section 3.2): from a large
// vocabulary of frequent strings, tokens that the likelihood of the words misses least are removed,
// a quarter at a time, between steps of the EM algorithm.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/pages.h"
#include "text/threads.h"
#include "text/train_words.h"

namespace byhand::text {

struct UnigramTraining {
    std::size_t vocabulary_size = 8192;         // with the special tokens
    std::vector<std::string> special_tokens;    // first in the vocabulary, with score 0
    bool byte_fallback = false;                 // <0x00> ... <0xFF> follow, with score 0
    double character_coverage = 0.9995;         // see Alphabet
    std::vector<std::string> initial_alphabet;  // characters that are tokens in any case
    std::size_t seed_size = 1000000;            // tokens to begin with
    std::size_t max_token_length = 16;          // characters
    double shrinking = 0.75;                    // how many tokens a step leaves
    int em_steps = 2;                           // between two removals
    int threads = 1;
};

// Tokens with their log probabilities: special ones, bytes, and the others by descending score. The
// same for any number of threads. There are fewer than vocabulary_size if the words have fewer.
// Memory: the distinct words and 8 bytes for each; while seeds are sought, 16 bytes for each suffix
// of a part of them (an eighth, or a million, or all that begin with the same two bytes); for each
// token to begin with about 70 bytes, and 8 for each thread. `counts` is left empty.
// Throws std::invalid_argument if vocabulary_size is smaller than the alphabet.
std::vector<std::pair<std::string, double>> train_unigram(WordCounts& counts,
                                                          const UnigramTraining& options,
                                                          const Progress& progress);

// --- Parts, for train_unigram.cpp ----------------------------------------------------------------

// The words as one text, divided where a character is not in the alphabet.
struct Segments {
    // Leaves `words` empty.
    Segments(WordCounts& words, const Alphabet& alphabet);
    std::size_t size() const { return counts.size(); }
    std::string_view operator[](std::size_t i) const {
        return {text.data() + begins[i], begins[i + 1] - begins[i]};
    }
    std::uint64_t count(std::size_t i) const {
        return counts[i] == kLarge ? large_counts.at(i) : counts[i];
    }
    static constexpr std::uint32_t kLarge = 0xFFFFFFFFu;
    Pages<char> text;             // the segments, and then the alphabet
    Pages<std::uint32_t> begins;  // size() + 1
    Pages<std::uint32_t> counts;  // kLarge: it is in large_counts
    std::unordered_map<std::size_t, std::uint64_t> large_counts;
};

struct Seed {
    std::uint32_t begin, size;  // in Segments::text
    double count;
    std::string_view token(const Segments& segments) const {
        return {segments.text.data() + begin, size};
    }
};
// The strings of 2 .. max_token_length characters that occur at least twice, without those that
// would occur as often with one more character before or behind; at most seed_size, those with the
// greatest count * length. In any order.
Pages<Seed> seeds(const Segments& segments, const UnigramTraining& options);

}  // namespace byhand::text
