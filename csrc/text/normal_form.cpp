#include <algorithm>

#include "text/normalise.h"

namespace byhand::text {
namespace {

struct Part {  // of a segment while it is normalised
    char32_t code;
    std::uint8_t combining;
    std::size_t begin, end;  // the bytes that it came from
};

// Marks in the order of their combining classes, those of one class in the order of the text.
void order_marks(std::vector<Part>& parts) {
    for (auto begin = parts.begin(); begin != parts.end();) {
        if (begin->combining == 0) {
            ++begin;
            continue;
        }
        const auto end =
            std::find_if(begin, parts.end(), [](const Part& part) { return part.combining == 0; });
        std::stable_sort(begin, end,
                         [](const Part& a, const Part& b) { return a.combining < b.combining; });
        begin = end;
    }
}

void compose(std::vector<Part>& parts, const Unicode& unicode) {
    std::size_t size = 0;  // of what is finished, at the beginning of `parts`
    std::size_t starter = 0;
    bool started = false;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const Part part = parts[i];
        // Between the starter and this part only marks of lower classes may stand.
        const bool blocked =
            !started || (size > starter + 1 && parts[size - 1].combining >= part.combining);
        const char32_t pair = blocked ? 0 : unicode.compose(parts[starter].code, part.code);
        if (pair != 0) {
            parts[starter].code = pair;
            parts[starter].begin = std::min(parts[starter].begin, part.begin);
            parts[starter].end = std::max(parts[starter].end, part.end);
            continue;
        }
        if (part.combining == 0) {
            starter = size;
            started = true;
        }
        parts[size++] = part;
    }
    parts.resize(size);
}

}  // namespace

// Only segments that may change are looked at: from the last stable character before one that is
// not stable to the next stable one.
void NormalForm::apply(Text& text) const {
    const Unicode& unicode = Unicode::tables();
    const std::string& bytes = text.bytes;
    std::unique_ptr<Rewrite> out;
    std::size_t kept = 0, stable = 0;
    for (std::size_t at = 0, length = 0; at < bytes.size();) {
        const std::size_t ascii = ascii_prefix(bytes, at);
        if (ascii > 0) {
            at += ascii;
            stable = at - 1;
            continue;
        }
        if (unicode.stable(decode_utf8(bytes, at, length), form_)) {
            stable = at;
            at += length;
            continue;
        }
        std::size_t end = at + length;
        while (end < bytes.size() && !unicode.stable(decode_utf8(bytes, end, length), form_)) {
            end += length;
        }
        if (!out) out = std::make_unique<Rewrite>(text);
        out->keep(kept, stable);
        write(text, stable, end, *out);
        kept = stable = at = end;
    }
    if (!out) return;
    out->keep(kept, bytes.size());
    out->finish(text);
}

void NormalForm::write(const Text& text, std::size_t begin, std::size_t end, Rewrite& out) const {
    const Unicode& unicode = Unicode::tables();
    const bool compatibility = form_ == Form::nfkc || form_ == Form::nfkd;
    std::vector<Part> parts;
    std::u32string codes;
    for (std::size_t at = begin, length = 0; at < end; at += length) {
        codes.clear();
        unicode.decompose(decode_utf8(text.bytes, at, length), compatibility, codes);
        for (char32_t code : codes)
            parts.push_back({code, unicode.combining(code), at, at + length});
    }
    order_marks(parts);
    if (form_ == Form::nfc || form_ == Form::nfkc) compose(parts, unicode);
    std::string encoded;
    for (const Part& part : parts) {
        encoded.clear();
        append_utf8(part.code, encoded);
        if (text.bytes.compare(part.begin, part.end - part.begin, encoded) == 0) {
            out.keep(part.begin, part.end);
        } else {
            out.replace(part.begin, part.end, encoded);
        }
    }
}

}  // namespace byhand::text
