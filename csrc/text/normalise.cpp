#include "text/normalise.h"

#include "text/pretokenise.h"

namespace byhand::text {
namespace {

bool is_chinese(char32_t code) {  // the ranges of Hugging Face's BertNormalizer
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
           (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B81F) ||
           (code >= 0x2B920 && code <= 0x2CEAF) || (code >= 0xF900 && code <= 0xFAFF) ||
           (code >= 0x2F800 && code <= 0x2FA1F);
}

void lower_ascii(std::string& bytes) {
    for (char& c : bytes) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    }
}

// Drops the bytes before `begin` and from `end` on.
void cut(Text& text, std::size_t begin, std::size_t end) {
    if (begin == 0 && end == text.bytes.size()) return;
    Rewrite out(text);
    out.keep(begin, end);
    out.finish(text);
}

}  // namespace

void LowerCase::apply(Text& text) const {
    const Unicode& unicode = Unicode::tables();
    lower_ascii(text.bytes);  // as many bytes as before: the origins stay
    rewrite_characters(text, true, [&](char32_t code, std::string& with) {
        const std::u32string_view lower = unicode.lower(code);
        for (char32_t part : lower) append_utf8(part, with);
        return !lower.empty();
    });
}

void Drop::apply(Text& text) const {
    const Unicode& unicode = Unicode::tables();
    rewrite_characters(text, false, [&](char32_t code, std::string&) {
        return (unicode.classes(code) & classes_) != 0;
    });
}

void BertNormaliser::apply(Text& text) const {
    const Unicode& unicode = Unicode::tables();
    if (clean_) {
        for (char& c : text.bytes) {
            if (c == '\t' || c == '\n' || c == '\r') c = ' ';
        }
    }
    if (clean_ || chinese_) {
        rewrite_characters(text, false, [&](char32_t code, std::string& with) {
            if (code >= ' ' && code < 127) return false;
            const std::uint16_t classes = unicode.classes(code);
            if (clean_ && (code == 0xFFFD || (classes & kControl))) return true;
            if (clean_ && (classes & kSpace)) {
                with = ' ';
                return true;
            }
            if (!chinese_ || !is_chinese(code)) return false;
            with = ' ';
            append_utf8(code, with);
            with += ' ';
            return true;
        });
    }
    if (accents_) {
        NormalForm(Form::nfd).apply(text);
        rewrite_characters(text, true, [&](char32_t code, std::string&) {
            return (unicode.classes(code) & kNonspacing) != 0;
        });
    }
    if (lower_) LowerCase().apply(text);
}

void Strip::apply(Text& text) const {
    const Unicode& unicode = Unicode::tables();
    const std::string& bytes = text.bytes;
    std::size_t begin = 0, end = bytes.size(), length = 0;
    if (left_) {
        while (begin < end && (unicode.classes(decode_utf8(bytes, begin, length)) & kSpace)) {
            begin += length;
        }
    }
    while (right_ && end > begin) {
        const std::size_t last = std::max(last_character(bytes, end), begin);
        if (!(unicode.classes(decode_utf8(bytes, last, length)) & kSpace)) break;
        end = last;
    }
    cut(text, begin, end);
}

void Replace::apply(Text& text) const {
    std::vector<Span> found;
    matches_->split(text.bytes, {0, static_cast<std::int64_t>(text.bytes.size())}, found);
    if (found.empty()) return;
    Rewrite out(text);
    std::size_t kept = 0;
    for (const Span match : found) {
        const auto begin = static_cast<std::size_t>(match.begin);
        out.keep(kept, begin);
        kept = static_cast<std::size_t>(match.end);
        out.replace(begin, kept, content_);
    }
    out.keep(kept, text.bytes.size());
    out.finish(text);
}

void Prepend::apply(Text& text) const {
    if (text.bytes.empty() || (first_ && !text.first)) return;
    if (!unless_.empty() && text.bytes.compare(0, unless_.size(), unless_) == 0) return;
    std::size_t length = 0;
    decode_utf8(text.bytes, 0, length);
    Rewrite out(text);  // the origin of the prefix is the first character, as with Hugging Face
    out.replace(0, length, content_ + text.bytes.substr(0, length));
    out.keep(length, text.bytes.size());
    out.finish(text);
}

void Nmt::apply(Text& text) const {
    rewrite_characters(text, false, [](char32_t code, std::string& with) {
        if (code >= ' ' && code < 127) return false;
        if ((code >= 1 && code <= 8) || code == 0x0B || (code >= 0x0E && code <= 0x1F) ||
            code == 0x7F || code == 0x8F || code == 0x9F) {
            return true;
        }
        if (code == 9 || code == 10 || code == 12 || code == 13 || code == 0x1680 ||
            (code >= 0x200B && code <= 0x200F) || code == 0x2028 || code == 0x2029 ||
            code == 0x2581 || code == 0xFEFF || code == 0xFFFD) {
            with = ' ';
            return true;
        }
        return false;
    });
}

void PerWord::apply(Text& text) const {
    std::vector<Span> words;
    split_all(words_, text.bytes, words);
    std::string bytes;
    std::vector<Span> origin;
    for (const Span word : words) {
        const auto begin = static_cast<std::size_t>(word.begin);
        const auto end = static_cast<std::size_t>(word.end);
        Text piece(std::string_view(text.bytes).substr(begin, end - begin));
        piece.first = text.first && begin == 0;
        piece.tracked = text.tracked;
        if (text.tracked) {
            piece.origin.assign(text.origin.begin() + word.begin, text.origin.begin() + word.end);
        }
        for (const auto& normaliser : each_) normaliser->apply(piece);
        if (!bytes.empty()) {
            bytes.push_back('\xFF');
            if (text.tracked) origin.push_back(text.origin[begin]);
        }
        bytes += piece.bytes;
        origin.insert(origin.end(), piece.origin.begin(), piece.origin.end());
    }
    text.bytes = std::move(bytes);
    text.origin = std::move(origin);
}

}  // namespace byhand::text
