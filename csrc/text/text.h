// From text to token ids: the interfaces that the parts of a tokenizer implement.
//
//   str -> special tokens are cut out -> Normaliser... -> PreTokenizer... -> Model -> ids
//
// Everything is UTF-8 in bytes, and valid: Python's str is checked once where it enters. The parts
// change no state after they were made, so that threads can share them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace byhand::text {

using Id = std::int32_t;

// Bytes begin .. end - 1 of a text.
struct Span {
    std::int64_t begin, end;
};
inline bool operator==(Span a, Span b) { return a.begin == b.begin && a.end == b.end; }

// A text while it is normalised. `origin` has a span of the original text for each byte of `bytes`;
// it is kept only if `tracked`, for offsets.
struct Text {
    std::string bytes;
    std::vector<Span> origin;
    bool tracked = false;
    bool first;  // whether it begins where the original does: some prefixes are only put there

    explicit Text(std::string_view original, bool track = false, std::int64_t at = 0)
        : bytes(original), tracked(track), first(at == 0) {
        if (!tracked) return;
        origin.reserve(bytes.size());
        for (std::size_t i = 0; i < bytes.size();) {  // every byte of a character has its span
            std::size_t end = i + 1;
            while (end < bytes.size() && continues(bytes[end])) ++end;
            const auto base = static_cast<std::size_t>(at);
            for (std::size_t b = i; b < end; ++b) {
                origin.push_back(
                    {static_cast<std::int64_t>(base + i), static_cast<std::int64_t>(base + end)});
            }
            i = end;
        }
    }
};

// Writes the next version of a text from pieces of the last one, and keeps the origins.
class Rewrite {
  public:
    explicit Rewrite(const Text& from) : from_(from) {
        bytes_.reserve(from.bytes.size() + from.bytes.size() / 8);
    }
    // Bytes of the last version, unchanged.
    void keep(std::size_t begin, std::size_t end) {
        bytes_.append(from_.bytes, begin, end - begin);
        if (from_.tracked) {
            origin_.insert(origin_.end(), from_.origin.begin() + static_cast<std::ptrdiff_t>(begin),
                           from_.origin.begin() + static_cast<std::ptrdiff_t>(end));
        }
    }
    // `with` in place of the bytes begin .. end - 1; where begin == end it is inserted there.
    void replace(std::size_t begin, std::size_t end, std::string_view with) {
        bytes_.append(with);
        if (!from_.tracked) return;
        Span span{};
        if (end > begin) {
            span = {from_.origin[begin].begin, from_.origin[end - 1].end};
        } else if (begin < from_.origin.size()) {
            span = {from_.origin[begin].begin, from_.origin[begin].begin};
        } else if (!from_.origin.empty()) {
            span = {from_.origin.back().end, from_.origin.back().end};
        }
        origin_.insert(origin_.end(), with.size(), span);
    }
    void finish(Text& text) {  // may be the text that the pieces came from
        text.bytes = std::move(bytes_);
        text.origin = std::move(origin_);
    }

  private:
    const Text& from_;
    std::string bytes_;
    std::vector<Span> origin_;
};

class Normaliser {
  public:
    virtual ~Normaliser() = default;
    virtual void apply(Text& text) const = 0;
    // Whether what it does depends on Text::first (Metaspace's prepend_scheme "first" does).
    virtual bool depends_on_start() const { return false; }
};

// Divides a piece of a normalised text into words. Bytes that no span covers are dropped (spaces,
// with most of them). Never changes the bytes: what does is a Normaliser.
class PreTokenizer {
  public:
    virtual ~PreTokenizer() = default;
    // Appends the words of text[piece] in order. The scanner may look at bytes beyond the piece
    // nowhere: a piece is divided as if it were the whole text.
    virtual void split(std::string_view text, Span piece, std::vector<Span>& words) const = 0;
};

using Normalisers = std::vector<std::shared_ptr<Normaliser>>;
using PreTokenizers = std::vector<std::shared_ptr<PreTokenizer>>;

// Tokens in the order of the text. `spans` (bytes of the normalised text) only if `with_spans`.
struct Tokens {
    std::vector<Id> ids;
    std::vector<Span> spans;
    bool with_spans = false;

    void add(Id id, std::int64_t begin, std::int64_t end) {
        ids.push_back(id);
        if (with_spans) spans.push_back({begin, end});
    }
};

class Model {
  public:
    // Work space and caches of one thread.
    struct Scratch {
        virtual ~Scratch() = default;
    };
    virtual ~Model() = default;
    virtual std::unique_ptr<Scratch> scratch() const { return std::make_unique<Scratch>(); }
    // Appends the tokens of a word, which begins at byte `at` of its text. `scratch` came from
    // scratch() of this model.
    virtual void encode(std::string_view word, std::int64_t at, Scratch& scratch,
                        Tokens& out) const = 0;
    // The size of the vocabulary, and the bytes of token 0 <= id < size. An id without a token has
    // no bytes.
    virtual std::int64_t size() const = 0;
    virtual std::string_view token(Id id) const = 0;
    virtual Id id_of(std::string_view token) const = 0;  // -1 if there is none
};

// What trainers learn from: the distinct words of a text with their counts, ordered by their bytes,
// so that neither threads nor hash tables can change what is learned.
struct CountedWord {
    std::string word;
    std::uint64_t count;
};

}  // namespace byhand::text
