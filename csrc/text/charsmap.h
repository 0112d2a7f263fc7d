// SentencePiece's precompiled_charsmap: replacements of character sequences, the longest first.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/text.h"

namespace byhand::text {

// Its bytes are: the size of a trie in bytes (32 bits, little-endian); the trie, a double array in
// the format of Darts-clone whose values are positions in what follows; strings that end with 0.
class Charsmap {
  public:
    explicit Charsmap(std::string_view data);  // std::invalid_argument if it is damaged

    // The longest key, or the shortest, at text[at]: its length, and its replacement. Length 0 if
    // there is none.
    std::size_t find(std::string_view text, std::size_t at, bool longest,
                     std::string_view& with) const;
    // No key consists of this ASCII character, or begins with it and another ASCII character.
    bool keeps(unsigned char ascii) const { return keeps_[ascii]; }

  private:
    // The node that `byte` leads to from `node`, or 0, which no byte leads to.
    std::size_t child(std::size_t node, unsigned char byte) const;

    std::vector<std::uint32_t> units_;
    std::string replacements_;
    bool keeps_[128];
};

// With `longest`, the longest key at each place is replaced, as SentencePiece does. Without, what
// Hugging Face's tokenizers do: a cluster of characters (one that a reader sees) of less than 6
// bytes is replaced as a whole by what the shortest key in it gives; in others, each character.
class Precompiled : public Normaliser {
  public:
    Precompiled(std::string_view charsmap, bool longest) : charsmap_(charsmap), longest_(longest) {}
    void apply(Text& text) const override;

  private:
    Charsmap charsmap_;
    bool longest_;
};

// The bytes of a charsmap with these replacements; keys are not empty and have no byte 0.
std::string build_charsmap(const std::map<std::string, std::string>& replacements);

// SentencePiece's usual normalisation: Nmt, then NFKC of each character and of each sequence that
// composes to one.
std::string nmt_nfkc_charsmap();

}  // namespace byhand::text
