// The regular expressions by which GPT models divide text, as scanners that take linear time.
//
//   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   gpt4    '(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|
//            ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s
//   llama3  gpt4 without \s++$; qwen2 is llama3 with \p{N} in place of \p{N}{1,3}
//   o200k   [^\r\n\p{L}\p{N}]?U*W+C?|[^\r\n\p{L}\p{N}]?U+W*C?|\p{N}{1,3}|
//            ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
//           with U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], W = [\p{Ll}\p{Lm}\p{Lo}\p{M}] and
//           C = (?i:'s|'t|'re|'ve|'m|'ll|'d)
//   tekken  o200k without C and with \p{N} in place of \p{N}{1,3}
//
// Every character is matched by one of the alternatives, so the words cover the text.
#include <stdexcept>

#include "text/pretokenise.h"
#include "text/word_pattern.h"

namespace byhand::text {
namespace {

struct Gpt2 {
    static constexpr bool space_leads = true;    // ' ?' before letters and digits
    static constexpr bool contractions = true;   // as words of their own
    static constexpr bool any_case = false;      // of the contractions
    static constexpr bool cased = false;         // words change at an upper case letter
    static constexpr bool suffixes = false;      // contractions at the end of words
    static constexpr int digits = 0;             // in a word; 0: any number
    static constexpr bool newlines = false;      // [\r\n]* and \s*[\r\n]+
    static constexpr bool slashes = false;       // ... with '/'
    static constexpr bool space_at_end = false;  // \s++$
};
struct Llama3 : Gpt2 {
    static constexpr bool space_leads = false, any_case = true, newlines = true;
    static constexpr int digits = 3;
};
struct Gpt4 : Llama3 {
    static constexpr bool space_at_end = true;
};
struct Qwen2 : Llama3 {
    static constexpr int digits = 1;
};
struct O200k : Llama3 {
    static constexpr bool contractions = false, cased = true, suffixes = true, slashes = true;
};
struct Tekken : O200k {
    static constexpr bool suffixes = false;
    static constexpr int digits = 1;
};

struct AsciiClasses {
    std::uint16_t of[128];
    AsciiClasses() {
        for (char32_t code = 0; code < 128; ++code) of[code] = Unicode::tables().classes(code);
    }
};

template <class Rules>
class Scanner {
  public:
    Scanner(std::string_view text, const Unicode& unicode, const std::uint16_t* ascii)
        : text_(text), unicode_(unicode), ascii_(ascii) {}

    std::size_t word_end(std::size_t at) const {
        std::size_t length = 0;
        const unsigned first = classes(at, length);
        if (Rules::contractions && text_[at] == '\'') {
            const std::size_t end = contraction(at);
            if (end > at) return end;
        }
        const std::size_t after_space = at + (text_[at] == ' ' ? 1 : 0);
        if (!(first & kNumber)) {
            const bool leads =
                Rules::space_leads ? text_[at] == ' ' : !(first & (kLetter | kNewline));
            const std::size_t end = letters(at, leads ? at + length : at);
            if (end > at) return end;
        }
        if (Rules::digits == 0) {
            const std::size_t end = run<kNumber>(after_space);
            if (end > after_space) return end;
        } else if (first & kNumber) {
            return digits(at + length);
        }
        std::size_t end = run<kOther>(after_space);
        if (end > after_space) {
            while (Rules::newlines && end < text_.size() && is_newline(text_[end])) ++end;
            return end;
        }
        return spaces(at);
    }

  private:
    unsigned classes(std::size_t at, std::size_t& length) const {
        const auto byte = static_cast<unsigned char>(text_[at]);
        if (byte < 128) {
            length = 1;
            return ascii_[byte];
        }
        return unicode_.classes(decode_utf8(text_, at, length));
    }

    template <unsigned wanted>
    std::size_t run(std::size_t at) const {
        if (wanted == kLetter || wanted == kLower) {
            at = after_letters<wanted == kLetter>(text_, at);
        }
        for (std::size_t length = 0; at < text_.size(); at += length) {
            if (!(classes(at, length) & wanted)) break;
        }
        return at;
    }

    static bool is_newline(char c) {
        return c == '\r' || c == '\n' || (Rules::slashes && c == '/');
    }

    std::size_t digits(std::size_t at) const {  // after the first one
        std::size_t length = 0;
        for (int more = Rules::digits - 1; more > 0 && at < text_.size(); --more, at += length) {
            if (!(classes(at, length) & kNumber)) break;
        }
        return at;
    }

    // The end of a contraction at an apostrophe, or the place of the apostrophe. Case folding makes
    // U+017F an s.
    std::size_t contraction(std::size_t at) const {
        const auto letter = [&](std::size_t i) -> char {
            if (at + i >= text_.size()) return 0;
            const char c = text_[at + i];
            return Rules::any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        };
        const char first = letter(1), second = letter(2);
        if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
        if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
            (first == 'l' && second == 'l')) {
            return at + 3;
        }
        return Rules::any_case && text_.compare(at + 1, 2, "\xC5\xBF") == 0 ? at + 3 : at;
    }

    // The end of a word that begins at `at` and whose letters begin at `begin`, or, if there are
    // none there, at `at`. Returns `at` if there is no such word.
    std::size_t letters(std::size_t at, std::size_t begin) const {
        if (!Rules::cased) {
            const std::size_t end = run<kLetter>(begin);
            return end > begin ? end : at;  // what leads is no letter itself
        }
        std::size_t end = lower_word(begin);
        if (end == begin && begin > at) {
            end = lower_word(at);
            begin = end == at ? begin : at;
        }
        if (end <= begin) end = run<kUpper>(begin);  // there is no lower case after it
        if (end == begin && begin > at) end = run<kUpper>(begin = at);
        if (end == begin) return at;
        return Rules::suffixes && end < text_.size() && text_[end] == '\'' ? contraction(end) : end;
    }

    // The end of U*W+ from `at`, or `at`. Where no W follows the longest run of U, the match ends
    // after the last character of the run that is in W too.
    std::size_t lower_word(std::size_t at) const {
        std::size_t end = at, length = 0;
        for (std::size_t i = at; i < text_.size(); i += length) {
            const unsigned found = classes(i, length);
            if (!(found & kUpper)) return (found & kLower) ? run<kLower>(i) : end;
            if (found & kLower) end = i + length;
        }
        return end;
    }

    std::size_t spaces(std::size_t at) const {
        const std::size_t end = run<kSpace>(at);
        if (Rules::space_at_end && end == text_.size()) return end;
        if (Rules::newlines) {
            for (std::size_t i = end; i > at; --i) {
                if (text_[i - 1] == '\r' || text_[i - 1] == '\n') return i;
            }
        }
        if (end == text_.size()) return end;
        const std::size_t last = last_character(text_, end);  // it belongs to what follows
        return last > at ? last : end;
    }

    std::string_view text_;
    const Unicode& unicode_;
    const std::uint16_t* ascii_;
};

template <class Rules>
class Pattern : public PreTokenizer {
  public:
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override {
        const std::size_t end = static_cast<std::size_t>(piece.end);
        const Scanner<Rules> scanner(text.substr(0, end), unicode_, ascii_.of);
        for (auto at = static_cast<std::size_t>(piece.begin); at < end;) {
            const std::size_t next = scanner.word_end(at);
            words.push_back({static_cast<std::int64_t>(at), static_cast<std::int64_t>(next)});
            at = next;
        }
    }

  private:
    const Unicode& unicode_ = Unicode::tables();
    AsciiClasses ascii_;
};

}  // namespace

std::shared_ptr<PreTokenizer> named_pattern(const std::string& name) {
    if (name == "gpt2") return std::make_shared<Pattern<Gpt2>>();
    if (name == "gpt4") return std::make_shared<Pattern<Gpt4>>();
    if (name == "llama3") return std::make_shared<Pattern<Llama3>>();
    if (name == "qwen2") return std::make_shared<Pattern<Qwen2>>();
    if (name == "o200k") return std::make_shared<Pattern<O200k>>();
    if (name == "tekken") return std::make_shared<Pattern<Tekken>>();
    if (name == "words") return std::make_shared<WordPattern>(false);
    if (name == "words_spaces") return std::make_shared<WordPattern>(true);
    throw std::invalid_argument("there is no pattern named " + name);
}

}  // namespace byhand::text
