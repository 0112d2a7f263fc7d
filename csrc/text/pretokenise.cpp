#include "text/pretokenise.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace byhand::text {
namespace {

// Calls use(begin, end, classes) for each character of a piece.
template <class Use>
void each_character(std::string_view text, Span piece, Use use) {
    const Unicode& unicode = Unicode::tables();
    const std::string_view until = text.substr(0, static_cast<std::size_t>(piece.end));
    std::size_t length = 0;
    for (auto at = static_cast<std::size_t>(piece.begin); at < until.size(); at += length) {
        const std::uint16_t classes = unicode.classes(decode_utf8(until, at, length));
        use(static_cast<std::int64_t>(at), static_cast<std::int64_t>(at + length), classes);
    }
}

void add_if_any(std::int64_t begin, std::int64_t end, std::vector<Span>& words) {
    if (end > begin) words.push_back({begin, end});
}

}  // namespace

void split_all(const PreTokenizers& all, std::string_view text, std::vector<Span>& words) {
    words.clear();
    add_if_any(0, static_cast<std::int64_t>(text.size()), words);
    std::vector<Span> next;
    for (const auto& pretokenizer : all) {
        next.clear();
        for (const Span word : words) pretokenizer->split(text, word, next);
        words.swap(next);
    }
}

Literal::Literal(std::string bytes) : bytes_(std::move(bytes)) {
    if (bytes_.empty()) throw std::invalid_argument("the text to split at is empty");
}

void Literal::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const std::string_view until = text.substr(0, static_cast<std::size_t>(piece.end));
    for (auto at = static_cast<std::size_t>(piece.begin);;) {
        at = until.find(bytes_, at);
        if (at == std::string_view::npos) return;
        const std::size_t end = at + bytes_.size();
        words.push_back({static_cast<std::int64_t>(at), static_cast<std::int64_t>(end)});
        at = end;
    }
}

void Characters::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const Unicode& unicode = Unicode::tables();
    const std::string_view until = text.substr(0, static_cast<std::size_t>(piece.end));
    std::int64_t size = 0;  // of the run, in characters
    std::size_t start = 0, length = 0;
    const auto finish = [&](std::size_t end) {
        if (size > 0 && size >= least_) {
            words.push_back({static_cast<std::int64_t>(start), static_cast<std::int64_t>(end)});
        }
        size = 0;
    };
    const bool has_letters = (classes_ & kLetter) != 0;
    for (auto at = static_cast<std::size_t>(piece.begin);; at += length) {
        if (least_ != 0 && size != 0 && has_letters) {
            const std::size_t end = after_letters<true>(until, at);
            size += static_cast<std::int64_t>(end - at);
            at = end;
        } else if (!has_letters && size == 0) {
            at = after_letters<true>(until, at);
        }
        if (at == until.size()) return finish(at);
        const bool within = (unicode.classes(decode_utf8(until, at, length)) & classes_) != 0;
        if (!within || least_ == 0) finish(at);
        if (within && size++ == 0) start = at;
    }
}

void Ends::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    std::string_view rest = text.substr(static_cast<std::size_t>(piece.begin),
                                        static_cast<std::size_t>(piece.end - piece.begin));
    const std::size_t whole = rest.size();
    while (const std::size_t size = at_end(rest)) {
        at_start_ ? rest.remove_prefix(size) : rest.remove_suffix(size);
    }
    const auto run = static_cast<std::int64_t>(whole - rest.size());
    if (run == 0) return;
    words.push_back(at_start_ ? Span{piece.begin, piece.begin + run}
                              : Span{piece.end - run, piece.end});
}

// The bytes of the first or last character of `text`, if it is one of them; else 0.
std::size_t Ends::at_end(std::string_view text) const {
    for (const std::string& character : characters_) {
        const std::size_t size = character.size();
        if (size == 0 || size > text.size()) continue;
        const std::size_t begin = at_start_ ? 0 : text.size() - size;
        if (text.substr(begin, size) == character) return size;
    }
    return 0;
}

Repeats::Repeats(std::string character, std::int64_t least)
    : character_(std::move(character)), least_(static_cast<std::size_t>(least)) {
    if (character_.empty() || least < 1) {
        throw std::invalid_argument("runs are of one character, at least once");
    }
}

void Repeats::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const std::string_view until = text.substr(0, static_cast<std::size_t>(piece.end));
    const std::size_t size = character_.size();
    for (std::size_t at = static_cast<std::size_t>(piece.begin);;) {
        const std::size_t begin = until.find(character_, at);
        if (begin == std::string_view::npos) return;
        at = begin + size;
        while (until.compare(at, size, character_) == 0) at += size;
        if ((at - begin) / size < least_) continue;
        words.push_back({static_cast<std::int64_t>(begin), static_cast<std::int64_t>(at)});
    }
}

void WordRuns::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    std::int64_t start = piece.begin;
    unsigned kind = kSpace;  // of the run that began at `start`
    each_character(text, piece, [&](std::int64_t begin, std::int64_t, unsigned classes) {
        const unsigned now = (classes & kWord) ? kWord : (classes & kSpace) ? kSpace : kOther;
        if (now == kind) return;
        if (kind != kSpace) add_if_any(start, begin, words);
        start = begin;
        kind = now;
    });
    if (kind != kSpace) add_if_any(start, piece.end, words);
}

void BertWords::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const Unicode& unicode = Unicode::tables();
    const std::string_view until = text.substr(0, static_cast<std::size_t>(piece.end));
    std::int64_t start = piece.begin;
    std::size_t length = 0;
    for (auto at = static_cast<std::size_t>(start);; at += length) {
        at = after_letters<true>(until, at);
        if (at == until.size()) break;
        const std::uint16_t classes = unicode.classes(decode_utf8(until, at, length));
        if ((classes & (kSpace | kPunctuation | kAsciiPunctuation)) == 0) continue;
        const auto begin = static_cast<std::int64_t>(at);
        const auto end = static_cast<std::int64_t>(at + length);
        add_if_any(start, begin, words);
        if ((classes & kSpace) == 0) words.push_back({begin, end});
        start = end;
    }
    add_if_any(start, piece.end, words);
}

FixedLength::FixedLength(std::int64_t length) : length_(length) {
    if (length < 1) throw std::invalid_argument("words have at least 1 character");
}

void FixedLength::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    std::int64_t start = piece.begin, size = 0;
    each_character(text, piece, [&](std::int64_t, std::int64_t end, unsigned) {
        if (++size < length_) return;
        words.push_back({start, end});
        start = end;
        size = 0;
    });
    add_if_any(start, piece.end, words);
}

void Separator::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const char* const all = text.data();
    for (std::int64_t begin = piece.begin; begin < piece.end;) {
        const void* found =
            std::memchr(all + begin, 0xFF, static_cast<std::size_t>(piece.end - begin));
        const std::int64_t end = found ? static_cast<const char*>(found) - all : piece.end;
        add_if_any(begin, end, words);
        begin = end + 1;
    }
}

void Callback::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const auto base = static_cast<std::size_t>(piece.begin);
    const std::string_view all = text.substr(base, static_cast<std::size_t>(piece.end) - base);
    std::size_t byte = 0;
    std::int64_t character = 0;
    const auto byte_of = [&](std::int64_t wanted) {  // wanted never falls
        if (wanted < character) throw std::invalid_argument("matches are not in order");
        for (; character < wanted; ++character) {
            if (byte == all.size()) throw std::invalid_argument("a match ends beyond the text");
            ++byte;
            while (byte < all.size() && continues(all[byte])) ++byte;
        }
        return piece.begin + static_cast<std::int64_t>(byte);
    };
    std::int64_t last = -1;  // an empty match at the end of another does not count
    for (const auto& [begin, end] : find_(all)) {
        if (begin == end && begin == last) continue;
        last = end;
        const std::int64_t first = byte_of(begin);
        words.push_back({first, byte_of(end)});
    }
}

void Split::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    std::vector<Span> found;
    matches_->split(text, piece, found);
    if (behaviour_ == Behaviour::merged_with_next && !invert_) {  // each match begins a word
        std::int64_t begin = piece.begin;
        for (const Span match : found) {
            add_if_any(begin, match.begin, words);
            begin = match.begin;
        }
        return add_if_any(begin, piece.end, words);
    }
    struct Part {
        Span span;
        bool match;
    };
    std::vector<Part> parts;
    parts.reserve(2 * found.size() + 1);
    std::int64_t last = piece.begin;
    for (const Span match : found) {
        if (match.begin > last) parts.push_back({{last, match.begin}, invert_});
        parts.push_back({match, !invert_});
        last = match.end;
    }
    if (piece.end > last) parts.push_back({{last, piece.end}, invert_});

    // A part is joined to the one before it, which may be a match of no characters. Only at the end
    // are those dropped.
    if (behaviour_ == Behaviour::merged_with_next) {
        bool matched = false;  // the part after this one, in the order of the text
        for (std::size_t i = parts.size(); i-- > 0;) {
            const bool joins = parts[i].match && !matched && i + 1 < parts.size();
            matched = parts[i].match;
            if (!joins) continue;
            parts[i + 1].span.begin = parts[i].span.begin;
            parts[i].span.end = parts[i].span.begin;
        }
    }
    const std::size_t before = words.size();
    bool matched = false, any = false;
    for (const auto& [span, match] : parts) {
        const bool joins =
            any && ((behaviour_ == Behaviour::contiguous && match == matched) ||
                    (behaviour_ == Behaviour::merged_with_previous && match && !matched));
        matched = match;
        any = true;
        if (behaviour_ == Behaviour::removed && match) continue;
        if (joins) {
            words.back().end = span.end;
        } else {
            words.push_back(span);
        }
    }
    const auto first = words.begin() + static_cast<std::ptrdiff_t>(before);
    const auto empty = [](Span span) { return span.begin == span.end; };
    words.erase(std::remove_if(first, words.end(), empty), words.end());
}

}  // namespace byhand::text
