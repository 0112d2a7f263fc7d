// Unigram (Kudo 2018, "Subword Regularization", arXiv:1804.10959): each token has a log
// probability, and a word is divided into the tokens with the greatest sum. A character that is no
// token is unknown; its score is 10 less than the least of the vocabulary. Neighbouring unknown
// characters are one unknown token.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/text.h"
#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

// Random numbers (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
struct SplitMix {
    std::uint64_t state;
    std::uint64_t bits() {
        std::uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // in [0, 1)
};

class Unigram : public Model {
  public:
    struct Options {
        std::optional<Id> unk_id;
        // An unknown character becomes the tokens <0xNN> of its bytes, if the vocabulary has them.
        bool byte_fallback = false;
        // Ids that no text matches; so are that of the unknown token and, with byte_fallback,
        // those of bytes.
        std::vector<Id> special;
        // Sums in float32, as sentencepiece has them, in place of float64, as Hugging Face has
        // them. Divisions of equal probability are told apart by their rounding.
        bool float32 = false;
    };
    // scores[id] of tokens[id]; an empty token is an id without one.
    Unigram(const std::vector<std::string>& tokens, const std::vector<double>& scores,
            const Options& options);

    std::int64_t size() const override { return vocabulary_.size(); }
    std::string_view token(Id id) const override { return vocabulary_.token(id); }
    Id id_of(std::string_view token) const override { return vocabulary_.id_of(token); }
    std::unique_ptr<Scratch> scratch() const override;
    void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                Tokens& out) const override;

    struct Division {
        std::vector<Id> ids;
        double score;
    };
    // The n best divisions of a word, the best one first.
    std::vector<Division> best(std::string_view word, std::int64_t n) const;

    // Appends the tokens of one division, drawn with probabilities in proportion to
    // exp(alpha * score): from all divisions if nbest < 1, from the `nbest` best ones otherwise.
    void sample(std::string_view word, std::int64_t at, double alpha, std::int64_t nbest,
                SplitMix& random, Tokens& out) const;

  private:
    struct Edge {  // a token, or an unknown character, in a word
        std::uint32_t begin, end;
        Id id;
        double score;
    };
    struct Piece {
        std::uint32_t begin, end;
        Id id;
    };
    template <class Real>
    struct Work;

    std::vector<Edge> edges(std::string_view word) const;  // ordered by begin, then by end
    std::vector<std::vector<Edge>> best_paths(std::string_view word, std::int64_t n,
                                              std::vector<double>& scores) const;
    std::vector<Edge> sampled_path(std::string_view word, double alpha, SplitMix& random) const;
    template <class Real>
    void viterbi(std::string_view word, std::int64_t at, Work<Real>& work, Tokens& out) const;
    // Appends tokens, in order; unknown characters are joined.
    template <class Pieces>
    void emit(std::string_view word, std::int64_t at, const Pieces& pieces, Tokens& out) const;
    void emit_unknown(std::string_view characters, std::int64_t at, Tokens& out) const;

    Vocabulary vocabulary_;
    std::vector<Id> bytes_;  // the ids of <0x00> ... <0xFF>, -1 for those missing; or empty
    Trie trie_;
    std::vector<double> scores_;
    std::vector<float> scores32_;
    double unk_score_;
    Id unk_id_;
    bool float32_;
};

// A Unigram that draws each division (subword regularisation). What is drawn for a word depends on
// `seed`, the word and its place in the text, and on nothing else.
class UnigramSampler : public Model {
  public:
    UnigramSampler(std::shared_ptr<const Unigram> model, double alpha, std::int64_t nbest,
                   std::uint64_t seed);
    std::int64_t size() const override { return model_->size(); }
    std::string_view token(Id id) const override { return model_->token(id); }
    Id id_of(std::string_view token) const override { return model_->id_of(token); }
    void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                Tokens& out) const override;

  private:
    std::shared_ptr<const Unigram> model_;
    double alpha_;
    std::int64_t nbest_;
    std::uint64_t seed_;
};

}  // namespace byhand::text
