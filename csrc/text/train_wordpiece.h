// Learns the vocabulary of WordPiece: characters, then again and again the pair of neighbouring
// tokens with the best score as one token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/threads.h"
#include "text/train_words.h"

namespace byhand::text {

// With c(x) the count of x in the words, as they are divided at that time:
enum class PairScore {
    // How much joining a and b adds to the log likelihood of the words, which is the sum of
    // c log(c/n) over all tokens, n = sum of c (Schuster and Nakajima 2012, "Japanese and Korean
    // voice search").
    kLikelihood,
    kRatio,      // c(ab) / (c(a) c(b))
    kFrequency,  // c(ab)
};

struct WordPieceTraining {
    std::size_t vocabulary_size = 8192;       // with the special tokens
    std::vector<std::string> special_tokens;  // first in the vocabulary
    std::string prefix = "##";                // of a token that does not begin a word
    PairScore score = PairScore::kLikelihood;
    std::uint64_t min_frequency = 2;  // of a pair that is joined
    std::size_t limit_alphabet = static_cast<std::size_t>(-1);
    // Characters that are tokens in any case, with and without the prefix.
    std::vector<std::string> initial_alphabet;
    std::size_t max_token_length = static_cast<std::size_t>(-1);  // characters, without the prefix
    std::size_t max_characters = 100;                             // longer words are left out
};

// The special tokens, the characters in the order of their bytes, the joined tokens in their order.
// Of pairs with equal scores the one whose left, then right token has the lesser bytes comes first.
// There are fewer than vocabulary_size if no pair is left. Memory: for each character of the
// distinct words 6 bytes (8 if there are more than 65,000 tokens), for each word 8, and what the
// pairs take: few are made anew by likelihood; by frequency, random words make many. `counts` is
// left empty. Throws std::invalid_argument if vocabulary_size is smaller than the alphabet.
std::vector<std::string> train_wordpiece(WordCounts& counts, const WordPieceTraining& options,
                                         const Progress& progress);

}  // namespace byhand::text
