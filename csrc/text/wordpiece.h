// WordPiece (Schuster and Nakajima 2012, as BERT uses it): a word is divided from left to right
// into the longest tokens of the vocabulary; those after the first are spelled with a prefix, "##".
// WordLevel: a word is one token.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/text.h"
#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

// What both have in common: a vocabulary, and the token of unknown words.
class WordModel : public Model {
  public:
    std::int64_t size() const override { return vocabulary_.size(); }
    std::string_view token(Id id) const override { return vocabulary_.token(id); }
    Id id_of(std::string_view token) const override { return vocabulary_.id_of(token); }

  protected:
    WordModel(const std::vector<std::string>& vocabulary, std::optional<std::string> unk,
              const std::vector<Id>& special)
        : vocabulary_(vocabulary),
          trie_(trie_of(vocabulary, special)),
          unk_(std::move(unk)),
          unk_id_(unk_ ? vocabulary_.id_of(*unk_) : -1) {}
    // The token of a word that the vocabulary does not have. Throws if there is no such token.
    void add_unknown(std::string_view word, std::int64_t at, Tokens& out) const;

    Vocabulary vocabulary_;
    Trie trie_;
    std::optional<std::string> unk_;
    Id unk_id_;
};

class WordPiece : public WordModel {
  public:
    // A word of more than `max_characters` characters is unknown.
    WordPiece(const std::vector<std::string>& vocabulary, std::optional<std::string> unk,
              const std::string& prefix, std::int64_t max_characters,
              const std::vector<Id>& special);
    void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                Tokens& out) const override;

  private:
    std::size_t max_characters_;
    Trie::Node continuation_ = Trie::kRoot;  // the node of the prefix
    bool can_continue_ = false;              // some token begins with the prefix
};

class WordLevel : public WordModel {
  public:
    WordLevel(const std::vector<std::string>& vocabulary, std::optional<std::string> unk,
              const std::vector<Id>& special)
        : WordModel(vocabulary, std::move(unk), special) {}
    void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                Tokens& out) const override;
};

}  // namespace byhand::text
