#include "text/pipeline.h"

#include <algorithm>
#include <stdexcept>

#include "text/pretokenise.h"
#include "text/unicode.h"

namespace byhand::text {
namespace {

constexpr std::size_t kPart = 64 << 10;    // bytes that are divided into words at a time
constexpr std::size_t kTick = 1 << 20;     // bytes between two calls of a Tick
constexpr std::size_t kCounted = 1 << 18;  // bytes whose words a thread counts at a time
constexpr std::size_t kGroup = 32 << 10;   // bytes of texts that a thread takes at a time

// Encodes what a Pipeline finds.
class Encoder final : public Sink {
  public:
    Encoder(const Model& model, Model::Scratch& scratch, Tokens& tokens, const Tick& tick)
        : model_(model), scratch_(scratch), tokens_(tokens), tick_(tick) {}

    void token(Id id, Span original) override { tokens_.add(id, original.begin, original.end); }

    void words(std::string_view piece, const std::vector<Span>& words, const Span* origin,
               std::int64_t base) override {
        const std::size_t first = tokens_.spans.size();
        for (const Span word : words) {
            const auto begin = static_cast<std::size_t>(word.begin);
            const auto bytes = static_cast<std::size_t>(word.end - word.begin);
            model_.encode(piece.substr(begin, bytes), word.begin, scratch_, tokens_);
            since_tick_ += bytes;
            if (since_tick_ >= kTick) {
                since_tick_ = 0;
                tick_();
            }
        }
        for (std::size_t s = first; s < tokens_.spans.size(); ++s) {
            tokens_.spans[s] = original(tokens_.spans[s], piece.size(), origin, base);
        }
    }

  private:
    static Span original(Span span, std::size_t size, const Span* origin, std::int64_t base) {
        if (origin == nullptr) return {span.begin + base, span.end + base};
        if (span.begin < span.end) return {origin[span.begin].begin, origin[span.end - 1].end};
        if (span.begin < static_cast<std::int64_t>(size)) {
            return {origin[span.begin].begin, origin[span.begin].begin};
        }
        return size == 0 ? Span{base, base} : Span{origin[size - 1].end, origin[size - 1].end};
    }

    const Model& model_;
    Model::Scratch& scratch_;
    Tokens& tokens_;
    const Tick& tick_;
    std::size_t since_tick_ = 0;
};

// Counts the words that a Pipeline finds.
class Counter final : public Sink {
  public:
    explicit Counter(LocalCounts& counts) : counts_(counts) {}
    void token(Id, Span) override {}
    void words(std::string_view piece, const std::vector<Span>& words, const Span*,
               std::int64_t) override {
        for (const Span word : words) {
            const auto begin = static_cast<std::size_t>(word.begin);
            counts_.add(piece.substr(begin, static_cast<std::size_t>(word.end) - begin));
        }
    }

  private:
    LocalCounts& counts_;
};

}  // namespace

bool is_cut(std::string_view text, std::size_t at, Cuts cuts) {
    const bool space = text[at] == ' ', line = text[at] == '\n' || text[at] == '\r';
    const auto begins = [&](std::string_view stop) { return text.substr(at, 3) == stop; };
    if (line && cuts != Cuts::spaces_and_stops) return false;
    if (!space && !line &&
        (cuts != Cuts::spaces_and_stops || static_cast<unsigned char>(text[at]) < 0xE3 ||
         !(begins("\xE3\x80\x81") || begins("\xE3\x80\x82") || begins("\xEF\xBC\x8C")))) {
        return false;
    }
    if (at == 0 || (space && (at + 1 == text.size() || !is_at(text, at + 1, kLetter))))
        return false;
    return is_at(text, last_character(text, at), kLetter | (space ? kMark : line ? kNumber : 0));
}

class Pipeline::Borrowed {
  public:
    explicit Borrowed(const Pipeline& pipeline) : pipeline_(pipeline) {
        if (!pipeline.parts_.model) throw std::invalid_argument("this pipeline has no model");
        {
            const std::lock_guard<std::mutex> guard(pipeline_.lock_);
            if (!pipeline_.scratches_.empty()) {
                scratch_ = std::move(pipeline_.scratches_.back());
                pipeline_.scratches_.pop_back();
            }
        }
        if (!scratch_) scratch_ = pipeline_.parts_.model->scratch();
    }
    ~Borrowed() {
        try {
            const std::lock_guard<std::mutex> guard(pipeline_.lock_);
            pipeline_.scratches_.push_back(std::move(scratch_));
        } catch (...) {  // without memory for the list the work space is freed instead
        }
    }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    Model::Scratch& operator*() const { return *scratch_; }

  private:
    const Pipeline& pipeline_;
    std::unique_ptr<Model::Scratch> scratch_;
};

Pipeline::Pipeline(Parts parts) : parts_(std::move(parts)) {
    size_ = parts_.model ? parts_.model->size() : 0;
    // Special tokens come first: of equal contents the first is found.
    std::stable_sort(
        parts_.added.begin(), parts_.added.end(),
        [](const AddedToken& a, const AddedToken& b) { return a.special > b.special; });
    std::vector<AddedToken> raw, normalised;
    for (AddedToken& token : parts_.added) {
        if (token.id < 0) throw std::invalid_argument("the id of an added token is negative");
        size_ = std::max<std::int64_t>(size_, std::int64_t{token.id} + 1);
        contents_.emplace_back(token.id, token.content);
        if (token.normalized) {
            Text content(token.content);
            for (const auto& normaliser : parts_.normalisers) normaliser->apply(content);
            token.content = std::move(content.bytes);
        }
        (token.normalized ? normalised : raw).push_back(token);
    }
    std::sort(contents_.begin(), contents_.end());
    raw_ = AddedTokens(std::move(raw));
    normalised_ = AddedTokens(std::move(normalised));
    for (const auto& normaliser : parts_.piece_normalisers) {
        depends_on_start_ = depends_on_start_ || normaliser->depends_on_start();
    }
}

std::size_t Pipeline::cut(std::string_view text, std::size_t begin, std::size_t size, Cuts cuts) {
    if (cuts == Cuts::none || text.size() - begin <= size) return text.size();
    for (std::size_t at = begin + size; at > begin + size / 2; --at) {
        if (is_cut(text, at, cuts)) return at;
    }
    for (std::size_t at = begin + size; at < text.size(); ++at) {
        if (is_cut(text, at, cuts)) return at;
    }
    return text.size();
}

void Pipeline::walk(std::string_view text, const Allowed& allowed, bool tracked, Sink& sink) const {
    std::vector<Piece> pieces;
    raw_.split(text, allowed, pieces);
    for (const Piece& found : pieces) {
        if (found.id >= 0) {
            sink.token(found.id, found.span);
            continue;
        }
        const auto base = static_cast<std::size_t>(found.span.begin);
        const std::string_view gap =
            text.substr(base, static_cast<std::size_t>(found.span.end) - base);
        for (std::size_t begin = 0, end = 0; begin < gap.size(); begin = end) {
            end = cut(gap, begin, kPart, parts_.cuts);
            normalise_and_walk(gap.substr(begin, end - begin),
                               static_cast<std::int64_t>(base + begin), base + begin == 0, allowed,
                               tracked, sink);
        }
    }
}

void Pipeline::normalise_and_walk(std::string_view text, std::int64_t base, bool first,
                                  const Allowed& allowed, bool tracked, Sink& sink) const {
    Text normal("", tracked);
    const Span* origin = nullptr;
    if (!parts_.normalisers.empty()) {
        // Where the first character was removed, no piece begins at the start of the original.
        normal = Text(text, tracked || (first && depends_on_start_), base);
        normal.first = first;
        for (const auto& normaliser : parts_.normalisers) normaliser->apply(normal);
        if (normal.bytes.empty()) return;
        if (normal.tracked) first = first && normal.origin.front().begin == 0;
        if (tracked) origin = normal.origin.data();
        text = normal.bytes;
    }
    if (normalised_.empty()) {
        piece(text, origin, base, first, tracked, sink);
        return;
    }
    std::vector<Piece> pieces;
    normalised_.split(text, allowed, pieces);
    for (const Piece& found : pieces) {
        const auto begin = static_cast<std::size_t>(found.span.begin);
        const auto end = static_cast<std::size_t>(found.span.end);
        if (found.id < 0) {
            piece(text.substr(begin, end - begin), origin == nullptr ? nullptr : origin + begin,
                  base + found.span.begin, first && begin == 0, tracked, sink);
        } else if (origin == nullptr) {
            sink.token(found.id, {base + found.span.begin, base + found.span.end});
        } else {
            sink.token(found.id, {origin[begin].begin, origin[end - 1].end});
        }
    }
}

void Pipeline::piece(std::string_view text, const Span* origin, std::int64_t base, bool first,
                     bool tracked, Sink& sink) const {
    if (parts_.piece_normalisers.empty()) {
        divide(text, origin, base, sink);
        return;
    }
    Text normal(text, tracked && origin == nullptr, base);
    if (origin != nullptr) {
        normal.tracked = true;
        normal.origin.assign(origin, origin + text.size());
    }
    normal.first = first;
    for (const auto& normaliser : parts_.piece_normalisers) normaliser->apply(normal);
    divide(normal.bytes, tracked ? normal.origin.data() : nullptr, base, sink);
}

void Pipeline::divide(std::string_view text, const Span* origin, std::int64_t base,
                      Sink& sink) const {
    std::vector<Span> words;
    split_all(parts_.pretokenizers, text, words);
    if (!text.empty()) sink.words(text, words, origin, base);
}

void Pipeline::encode(std::string_view text, const Allowed& allowed, Tokens& out,
                      const Tick& tick) const {
    const Borrowed scratch(*this);
    Encoder encoder(*parts_.model, *scratch, out, tick);
    walk(text, allowed, out.with_spans, encoder);
}

void Pipeline::encode_batch(const std::vector<std::string_view>& texts, const Allowed& allowed,
                            int threads, std::vector<Id>& ids, std::vector<std::int64_t>& rows,
                            const Tick& tick) const {
    struct Group {  // consecutive texts
        std::size_t begin, end;
        Tokens tokens{};
    };
    std::vector<Group> groups;
    for (std::size_t begin = 0, end = 0; begin < texts.size(); begin = end) {
        std::size_t bytes = 0;
        while (end < texts.size() && bytes < kGroup) bytes += texts[end++].size() + 1;
        groups.push_back({begin, end});
    }
    std::vector<std::int64_t> lengths(texts.size());
    run_on_threads(groups.size(), threads, tick, [&](const Next& next, const Tick& tick_here) {
        const Borrowed scratch(*this);
        for (std::size_t g = next(); g < groups.size(); g = next()) {
            Tokens& tokens = groups[g].tokens;
            Encoder encoder(*parts_.model, *scratch, tokens, tick_here);
            for (std::size_t t = groups[g].begin; t < groups[g].end; ++t) {
                const std::size_t before = tokens.ids.size();
                walk(texts[t], allowed, false, encoder);
                lengths[t] = static_cast<std::int64_t>(tokens.ids.size() - before);
            }
            tick_here();
        }
    });
    rows.assign(1, 0);
    for (const std::int64_t length : lengths) rows.push_back(rows.back() + length);
    ids.reserve(static_cast<std::size_t>(rows.back()));
    for (Group& group : groups) {
        ids.insert(ids.end(), group.tokens.ids.begin(), group.tokens.ids.end());
        group.tokens = Tokens{};
    }
}

void Pipeline::count(const std::vector<std::string_view>& texts, WordCounts& counts, int threads,
                     const Tick& tick) const {
    std::vector<std::string_view> parts;
    for (const std::string_view text : texts) {
        for (std::size_t begin = 0, end = 0; begin < text.size(); begin = end) {
            end = cut(text, begin, kCounted, parts_.cuts);
            parts.push_back(text.substr(begin, end - begin));
        }
    }
    std::mutex lock;
    run_on_threads(parts.size(), threads, tick, [&](const Next& next, const Tick& tick_here) {
        LocalCounts local(counts, lock);
        Counter counter(local);
        for (std::size_t p = next(); p < parts.size(); p = next()) {
            walk(parts[p], Allowed{}, false, counter);
            tick_here();
        }
        local.flush();
    });
}

std::string Pipeline::decode(const std::int64_t* ids, std::size_t count) const {
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i) {
        if (ids[i] < 0 || ids[i] >= size_) {
            throw std::invalid_argument("token id " + std::to_string(ids[i]) + " at position " +
                                        std::to_string(i) + " is outside the vocabulary 0.." +
                                        std::to_string(size_ - 1));
        }
        const auto id = static_cast<Id>(ids[i]);
        const auto found =
            std::lower_bound(contents_.begin(), contents_.end(), id,
                             [](const std::pair<Id, std::string>& a, Id b) { return a.first < b; });
        if (found != contents_.end() && found->first == id) {
            bytes += found->second;
        } else if (parts_.model && id < parts_.model->size()) {
            bytes += parts_.model->token(id);
        }
    }
    return bytes;
}

}  // namespace byhand::text
