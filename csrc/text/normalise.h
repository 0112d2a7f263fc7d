// Normalisers: Unicode's normal forms, case, accents, replacements. The names and the effects are
// those of Hugging Face's tokenizers.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "text/text.h"
#include "text/unicode.h"

namespace byhand::text {

// NFC, NFD, NFKC or NFKD (Unicode's annex 15).
class NormalForm : public Normaliser {
  public:
    explicit NormalForm(Form form) : form_(form) {}
    void apply(Text& text) const override;

  private:
    void write(const Text& text, std::size_t begin, std::size_t end, Rewrite& out) const;
    Form form_;
};

// The full lower case of each character by itself: no final sigma.
class LowerCase : public Normaliser {
  public:
    void apply(Text& text) const override;
};

// Drops the characters of some classes of unicode.h.
class Drop : public Normaliser {
  public:
    explicit Drop(std::uint16_t classes) : classes_(classes) {}
    void apply(Text& text) const override;

  private:
    std::uint16_t classes_;
};

// What BERT's tokenizer does first: control characters are dropped and white space becomes spaces;
// Chinese characters get spaces around them; accents are dropped; lower case.
class BertNormaliser : public Normaliser {
  public:
    BertNormaliser(bool clean, bool chinese, bool accents, bool lower)
        : clean_(clean), chinese_(chinese), accents_(accents), lower_(lower) {}
    void apply(Text& text) const override;

  private:
    bool clean_, chinese_, accents_, lower_;
};

// Drops white space at the ends.
class Strip : public Normaliser {
  public:
    Strip(bool left, bool right) : left_(left), right_(right) {}
    void apply(Text& text) const override;

  private:
    bool left_, right_;
};

// `content` in place of each match. What a pre-tokenizer finds are the matches.
class Replace : public Normaliser {
  public:
    Replace(std::shared_ptr<PreTokenizer> matches, std::string content)
        : matches_(std::move(matches)), content_(std::move(content)) {}
    void apply(Text& text) const override;

  private:
    std::shared_ptr<PreTokenizer> matches_;
    std::string content_;
};

// `content` before a text that has any characters and does not begin with `unless` (if that is not
// empty); with `first`, only before the piece that begins the original text.
class Prepend : public Normaliser {
  public:
    Prepend(std::string content, std::string unless, bool first)
        : content_(std::move(content)), unless_(std::move(unless)), first_(first) {}
    void apply(Text& text) const override;
    bool depends_on_start() const override { return first_; }

  private:
    std::string content_, unless_;
    bool first_;
};

// The cleaning of Google's neural machine translation, as in SentencePiece's nmt_nfkc: some control
// characters are dropped, and some invisible ones become spaces.
class Nmt : public Normaliser {
  public:
    void apply(Text& text) const override;
};

// A normaliser that acts on each word that pre-tokenizers make, for prefixes of words. The words
// come out with the byte 0xFF between them, which UTF-8 never has: `Separator` divides them again.
class PerWord : public Normaliser {
  public:
    PerWord(PreTokenizers words, Normalisers each)
        : words_(std::move(words)), each_(std::move(each)) {}
    void apply(Text& text) const override;
    bool depends_on_start() const override {
        return std::any_of(each_.begin(), each_.end(),
                           [](const auto& one) { return one->depends_on_start(); });
    }

  private:
    PreTokenizers words_;
    Normalisers each_;
};

// Rewrites the characters for which change(code, with) is true: `with`, which was empty, is what
// replaces them. Text without such characters is not copied.
template <class Change>
void rewrite_characters(Text& text, bool skip_ascii, Change change) {
    std::unique_ptr<Rewrite> out;
    std::size_t kept = 0;
    std::string with;
    for (std::size_t at = 0, length = 0; at < text.bytes.size(); at += length) {
        if (skip_ascii) {
            at += ascii_prefix(text.bytes, at);
            if (at == text.bytes.size()) break;
        }
        const char32_t code = decode_utf8(text.bytes, at, length);
        with.clear();
        if (!change(code, with)) continue;
        if (!out) out = std::make_unique<Rewrite>(text);
        out->keep(kept, at);
        out->replace(at, at + length, with);
        kept = at + length;
    }
    if (!out) return;
    out->keep(kept, text.bytes.size());
    out->finish(text);
}

}  // namespace byhand::text
