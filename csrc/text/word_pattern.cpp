// The words of a word-level tokenizer, as a scanner that takes linear time. With W =
// [\p{L}\p{M}\p{N}_] and WORD = W+(?:(?:['’\-]|(?<=\p{N})[.,:/](?=\p{N}))W+)*:
//
//   words         WORD|[^\sW]: don't, state-of-the-art, 3.14, 2024-01-02 and 10:30 are one word
//   words_spaces  ` ?WORD| ?[^\sW]|\s+(?!\S)|\s+`: covers the text, a space belongs to what follows
#include "text/word_pattern.h"

#include "text/unicode.h"

namespace byhand::text {

namespace {

class Scanner {
  public:
    explicit Scanner(std::string_view text) : text_(text) {}

    unsigned classes(std::size_t at, std::size_t& length) const {
        const char32_t code = decode_utf8(text_, at, length);
        return code == '_' ? static_cast<unsigned>(kLetter) : unicode_.classes(code);
    }

    // The end of the WORD that begins with W at `at`.
    std::size_t word_end(std::size_t at) const {
        bool number = false;  // the last character
        std::size_t end = run(at, number);
        while (end < text_.size()) {
            const std::size_t next = after_joiner(end, number);
            if (next == end) break;
            end = run(next, number);
        }
        return end;
    }

    std::size_t spaces_end(std::size_t at) const {
        std::size_t length = 0;
        while (at < text_.size() && (classes(at, length) & kSpace) != 0) at += length;
        return at;
    }

    static constexpr unsigned kInWord = kLetter | kMark | kNumber;

  private:
    std::size_t run(std::size_t at, bool& number) const {
        for (std::size_t length = 0; at < text_.size(); at += length) {
            const unsigned found = classes(at, length);
            if ((found & kInWord) == 0) break;
            number = (found & kNumber) != 0;
        }
        return at;
    }

    // The place after what joins two parts of a word, or `at`.
    std::size_t after_joiner(std::size_t at, bool number) const {
        const char c = text_[at];
        const bool letters = c == '\'' || c == '-' || text_.substr(at, 3) == "\xE2\x80\x99";
        const bool numbers = number && (c == '.' || c == ',' || c == ':' || c == '/');
        if (!letters && !numbers) return at;
        const std::size_t next = at + (c == '\xE2' ? 3 : 1);
        if (next >= text_.size()) return at;
        std::size_t length = 0;
        const unsigned found = classes(next, length);
        return (found & (letters ? kInWord : static_cast<unsigned>(kNumber))) != 0 ? next : at;
    }

    std::string_view text_;
    const Unicode& unicode_ = Unicode::tables();
};

}  // namespace

void WordPattern::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const auto end = static_cast<std::size_t>(piece.end);
    const Scanner scanner(text.substr(0, end));
    const auto add = [&](std::size_t from, std::size_t to) {
        words.push_back({static_cast<std::int64_t>(from), static_cast<std::int64_t>(to)});
    };
    for (auto at = static_cast<std::size_t>(piece.begin); at < end;) {
        std::size_t length = 0;
        std::size_t begin = at;
        unsigned found = scanner.classes(at, length);
        if ((found & kSpace) != 0) {
            const std::size_t after = scanner.spaces_end(at);
            const std::size_t last = last_character(text, after);  // it belongs to what follows
            const bool leads = spaces_ && after < end && text[last] == ' ';
            if (!leads && after < end && last > at && spaces_) {
                // \s+(?!\S) leaves the last one, whatever it is, and \s+ takes it.
                add(at, last);
                add(last, after);
            } else if (spaces_ && (leads ? last : after) > at) {
                add(at, leads ? last : after);
            }
            at = after;
            if (at == end) break;
            begin = leads ? last : after;
            found = scanner.classes(at, length);
        }
        at = (found & Scanner::kInWord) != 0 ? scanner.word_end(at) : at + length;
        add(begin, at);
    }
}

}  // namespace byhand::text
