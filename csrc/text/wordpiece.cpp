#include "text/wordpiece.h"

#include <stdexcept>

namespace byhand::text {

void WordModel::add_unknown(std::string_view word, std::int64_t at, Tokens& out) const {
    if (unk_id_ < 0) {
        throw std::invalid_argument(
            "the vocabulary has no tokens for " + quoted(word) +
            (unk_ ? ", and not the token " + quoted(*unk_) + " for unknown words"
                  : std::string(", and there is no token for unknown words")));
    }
    out.add(unk_id_, at, at + static_cast<std::int64_t>(word.size()));
}

WordPiece::WordPiece(const std::vector<std::string>& vocabulary, std::optional<std::string> unk,
                     const std::string& prefix, std::int64_t max_characters,
                     const std::vector<Id>& special)
    : WordModel(vocabulary, std::move(unk), special),
      max_characters_(static_cast<std::size_t>(max_characters)) {
    if (max_characters < 1) {
        throw std::invalid_argument("max_characters must be at least 1, not " +
                                    std::to_string(max_characters));
    }
    can_continue_ = trie_.walk(continuation_, prefix);
}

void WordPiece::encode(std::string_view word, std::int64_t at, Scratch&, Tokens& out) const {
    const std::size_t size = word.size();
    bool known = size <= max_characters_ || count_characters(word) <= max_characters_;
    const std::size_t first = out.ids.size();
    Trie::Node start = Trie::kRoot;
    for (std::size_t begin = 0; known && begin < size;) {
        std::size_t end = begin;
        Id longest = -1;
        Trie::Node node = start;
        for (std::size_t i = begin; i < size; ++i) {
            if (!trie_.step(node, static_cast<unsigned char>(word[i]))) break;
            if (const Id id = trie_.value(node); id >= 0) {
                longest = id;
                end = i + 1;
            }
        }
        if (longest < 0) {
            known = false;
            break;
        }
        out.add(longest, at + static_cast<std::int64_t>(begin),
                at + static_cast<std::int64_t>(end));
        begin = end;
        start = continuation_;
        known = can_continue_ || begin == size;
    }
    if (known) return;
    out.ids.resize(first);
    if (out.with_spans) out.spans.resize(first);
    add_unknown(word, at, out);
}

void WordLevel::encode(std::string_view word, std::int64_t at, Scratch&, Tokens& out) const {
    if (word.empty()) return;
    const Id id = trie_.find(word);
    if (id < 0) return add_unknown(word, at, out);
    out.add(id, at, at + static_cast<std::int64_t>(word.size()));
}

}  // namespace byhand::text
