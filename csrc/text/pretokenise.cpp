#include "text/pretokenise.h"

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

void split_all(const std::vector<std::shared_ptr<PreTokenizer>>& all, std::string_view text,
               std::vector<Span>& words) {
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
    std::int64_t start = 0, end = 0, size = 0;  // of the run
    const auto finish = [&] {
        if (size > 0 && size >= least_) words.push_back({start, end});
        size = 0;
    };
    each_character(text, piece, [&](std::int64_t begin, std::int64_t stop, unsigned classes) {
        if ((classes & classes_) == 0 || least_ == 0) finish();
        if ((classes & classes_) == 0) return;
        if (size++ == 0) start = begin;
        end = stop;
    });
    finish();
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
    std::int64_t start = piece.begin;
    each_character(text, piece, [&](std::int64_t begin, std::int64_t end, unsigned classes) {
        if ((classes & (kSpace | kPunctuation | kAsciiPunctuation)) == 0) return;
        add_if_any(start, begin, words);
        if ((classes & kSpace) == 0) words.push_back({begin, end});
        start = end;
    });
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
            while (byte < all.size() && (all[byte] & 0xC0) == 0x80) ++byte;
        }
        return piece.begin + static_cast<std::int64_t>(byte);
    };
    for (const auto& [begin, end] : find_(all)) {
        const std::int64_t first = byte_of(begin);
        words.push_back({first, byte_of(end)});
    }
}

void Split::split(std::string_view text, Span piece, std::vector<Span>& words) const {
    const std::size_t before = words.size();
    std::vector<Span> found;
    matches_->split(text, piece, found);
    std::int64_t last = piece.begin;
    bool last_matched = false;
    std::int64_t open = piece.begin;  // merged_with_next: where the word after this match begins
    const auto add = [&](Span part, bool match) {
        const bool any = words.size() > before;
        switch (behaviour_) {
            case Behaviour::removed:
                if (!match) add_if_any(part.begin, part.end, words);
                break;
            case Behaviour::isolated:
                add_if_any(part.begin, part.end, words);
                break;
            case Behaviour::contiguous:
                if (any && match == last_matched) {
                    words.back().end = part.end;
                } else {
                    add_if_any(part.begin, part.end, words);
                }
                break;
            case Behaviour::merged_with_previous:
                if (any && match && !last_matched) {
                    words.back().end = part.end;
                } else {
                    add_if_any(part.begin, part.end, words);
                }
                break;
            case Behaviour::merged_with_next:
                if (match) {
                    if (last_matched) add_if_any(open, part.begin, words);
                    open = part.begin;
                } else {
                    add_if_any(last_matched ? open : part.begin, part.end, words);
                }
                break;
        }
        last_matched = match;
    };
    for (const Span match : found) {
        if (match.begin > last) add({last, match.begin}, invert_);
        add(match, !invert_);
        last = match.end;
    }
    if (piece.end > last) add({last, piece.end}, invert_);
    if (behaviour_ == Behaviour::merged_with_next && last_matched) {
        add_if_any(open, piece.end, words);
    }
}

}  // namespace byhand::text
