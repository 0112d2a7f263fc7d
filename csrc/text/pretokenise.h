// Pre-tokenizers. Each finds spans of a text: its words, or, inside `Split` and `Replace`, matches.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "text/text.h"
#include "text/unicode.h"

namespace byhand::text {

// The words of `text` after all of the pre-tokenizers, each of which divides the words of the last.
void split_all(const PreTokenizers& all, std::string_view text, std::vector<Span>& words);

// Each occurrence of some bytes, from left to right.
class Literal : public PreTokenizer {
  public:
    explicit Literal(std::string bytes);
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::string bytes_;
};

// Each character of some classes of unicode.h, or each run of them that is at least `least` long
// (least = 0: single characters).
class Characters : public PreTokenizer {
  public:
    explicit Characters(std::uint16_t classes, std::int64_t least = 0)
        : classes_(classes), least_(least) {}
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::uint16_t classes_;
    std::int64_t least_;
};

// The longest run of some characters at one end of a text: \A[ab]+ or [ab]+\z.
class Ends : public PreTokenizer {
  public:
    Ends(std::vector<std::string> characters, bool at_start)
        : characters_(std::move(characters)), at_start_(at_start) {}
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::size_t at_end(std::string_view text) const;
    std::vector<std::string> characters_;
    bool at_start_;
};

// Runs of one character that are at least `least` long: x{3,}.
class Repeats : public PreTokenizer {
  public:
    Repeats(std::string character, std::int64_t least);
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::string character_;
    std::size_t least_;
};

// \w+|[^\w\s]+
class WordRuns : public PreTokenizer {
  public:
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;
};

// BERT's: white space is dropped and each punctuation character is a word.
class BertWords : public PreTokenizer {
  public:
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;
};

// Words of `length` characters; the last may be shorter.
class FixedLength : public PreTokenizer {
  public:
    explicit FixedLength(std::int64_t length);
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::int64_t length_;
};

// Divides at the byte 0xFF, which `PerWord` puts between words.
class Separator : public PreTokenizer {
  public:
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;
};

// Any other way to find matches: find(bytes) gives the spans in characters, in order.
class Callback : public PreTokenizer {
  public:
    using Find =
        std::function<std::vector<std::pair<std::int64_t, std::int64_t>>(std::string_view)>;
    explicit Callback(Find find) : find_(std::move(find)) {}
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    Find find_;
};

// What becomes of the matches and of the text between them: the names of Hugging Face's tokenizers.
enum class Behaviour { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class Split : public PreTokenizer {
  public:
    // With `invert`, the text between the matches takes the part of the matches.
    Split(std::shared_ptr<PreTokenizer> matches, Behaviour behaviour, bool invert)
        : matches_(std::move(matches)), behaviour_(behaviour), invert_(invert) {}
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    std::shared_ptr<PreTokenizer> matches_;
    Behaviour behaviour_;
    bool invert_;
};

// The patterns of GPT models, by name: see patterns.cpp.
std::shared_ptr<PreTokenizer> named_pattern(const std::string& name);

}  // namespace byhand::text
