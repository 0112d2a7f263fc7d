// Byte-pair encoding (Sennrich et al. 2016): a word begins as single characters or bytes, and the
// merges of the vocabulary join neighbours until none is possible.
#pragma once

#include <array>
#include <bitset>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/bpe_merges.h"
#include "text/text.h"
#include "text/vocabulary.h"

namespace byhand::text {

struct BpeOptions {
    std::optional<std::string> unk;  // replaces characters without a token; else they are dropped
    bool fuse_unk = false;           // one token for several such characters in a row
    bool byte_fallback = false;      // tokens <0x00> .. <0xFF> for the bytes of such a character
    std::string prefix, suffix;      // of characters that do not begin a word; that end one
    bool ignore_merges = false;      // a word that is a token is that token, whatever the merges
    double dropout = 0;              // the probability that a merge is left out
    std::uint64_t seed = 0;          // decides which
    std::optional<bool> byte_level;  // words begin as bytes; by default if the vocabulary has some
};

class Bpe final : public Model {
  public:
    using Pairs = std::vector<std::pair<std::string, std::string>>;

    // Without `merges`: any two neighbours merge whose bytes together are a token, the lowest id
    // first, and a word that is a token is that token. Throws std::invalid_argument if a merge
    // needs a token that is missing.
    Bpe(const std::vector<std::string>& vocabulary, const std::optional<Pairs>& merges,
        BpeOptions options);

    std::unique_ptr<Scratch> scratch() const override;
    void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                Tokens& out) const override;
    std::int64_t size() const override { return vocabulary_.size(); }
    std::string_view token(Id id) const override { return vocabulary_.token(id); }
    Id id_of(std::string_view token) const override { return vocabulary_.id_of(token); }
    bool byte_level() const { return byte_level_; }

  private:
    struct Work;

    void read_merges(const Pairs& merges);
    void derive_merges();
    void add_merge(Id left, Id right, std::uint32_t rank, Id made);
    std::string_view unit_at(std::string_view word, std::size_t at) const;
    Id unit_id(std::string_view unit) const;
    bool joins(std::string_view left, Id left_id, std::string_view right, Id right_id) const;

    void encode_cached(std::string_view word, std::int64_t at, bool whole, Work& work,
                       Tokens& out) const;
    void encode_long(std::string_view word, std::int64_t at, Work& work, Tokens& out) const;
    void encode_parts(std::string_view word, std::int64_t at, Work& work, Tokens& out) const;
    void merge(Work& work) const;
    bool begin_parts(std::string_view word, std::vector<Part>& parts) const;
    bool add_unknown(std::string_view unit, Part place, bool fuse, std::vector<Part>& parts) const;

    BpeOptions options_;
    Vocabulary vocabulary_;
    Merges merges_;
    std::vector<Id> made_;  // by the merge of each rank
    bool byte_level_ = false, whole_words_ = false, decorated_ = false, cuts_ = false;
    bool all_bytes_ = false;  // every byte is a token, and words are nothing else
    Id unk_ = -1;
    std::array<Id, 256> byte_ids_{}, fallback_ids_{};
    // Which units merges can join: last byte of the left one and first byte of the right one, and
    // of characters beyond ASCII the two ids.
    std::bitset<65536> byte_joins_;
    Merges joins_;
};

}  // namespace byhand::text
