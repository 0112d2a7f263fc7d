// Added tokens: tokens that are found in the text before it is divided into words, such as
// "<|endoftext|>" or "[MASK]".
#pragma once

#include "text/text.h"

namespace byhand::text {

struct AddedToken {
    std::string content;
    Id id;
    bool special;         // matched only if the call allows it
    bool single_word;     // only where no word character is next to it
    bool lstrip, rstrip;  // takes the white space on its left, on its right
    bool normalized;      // matched in the normalised text, by its normalised content
};

// Which special tokens a call may find: all of them, or those listed.
struct Allowed {
    bool all = true;
    std::vector<Id> ids;  // sorted
    bool has(Id id) const;
};

// A part of a text: a token, or text without added tokens (id -1).
struct Piece {
    Id id;
    Span span;
};

// Finds added tokens: the leftmost first, of those that begin there the longest.
class AddedTokens {
  public:
    static constexpr std::size_t kLongest = 1000;  // bytes; it bounds the time for a byte of text

    AddedTokens() = default;
    // Of tokens with equal contents the first is found. Empty contents are left out.
    explicit AddedTokens(std::vector<AddedToken> tokens);

    bool empty() const { return nodes_.empty(); }
    // Appends the parts of a text in order; those without tokens are not empty.
    void split(std::string_view text, const Allowed& allowed, std::vector<Piece>& pieces) const;

  private:
    // The children of a node follow each other, ordered by the byte that leads to them.
    struct Node {
        std::int32_t first_child, children, token;
        unsigned char byte;
    };
    std::int32_t child(std::int32_t node, unsigned char byte) const;
    const AddedToken* longest(std::string_view text, std::size_t at, const Allowed& allowed) const;

    std::vector<AddedToken> tokens_;
    std::vector<Node> nodes_;          // a tree of all contents; 0 is the root
    std::vector<std::int32_t> roots_;  // the root's child for each byte, or -1
};

}  // namespace byhand::text
