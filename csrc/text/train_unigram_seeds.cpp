// Frequent strings by sorting all suffixes of the words. Words are short, and so are the suffixes:
// comparing them costs less than a suffix array, and they are cut after max_token_length
// characters.
#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "text/train_unigram.h"
#include "text/trie.h"

namespace byhand::text {

Segments::Segments(WordCounts& words, const Alphabet& alphabet) {
    std::size_t size = words.bytes();
    for (const std::string& character : alphabet.characters) size += character.size();
    if (size > std::numeric_limits<std::uint32_t>::max()) {
        throw std::invalid_argument("the distinct words have more than 4294967295 bytes");
    }
    text.reserve(size);
    begins.reserve(words.size() + 1);
    counts.reserve(words.size());
    const auto close = [&](std::uint64_t count) {
        if (begins.back() == text.size()) return;
        begins.push_back(static_cast<std::uint32_t>(text.size()));
        const auto stored = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, kLarge));
        if (stored == kLarge) large_counts[counts.size()] = count;
        counts.push_back(stored);
    };
    begins.push_back(0);
    // In order, neighbouring words take the same ways through a trie.
    const auto before = [](const Counted& a, const Counted& b) { return a.word < b.word; };
    const auto add = [&](std::string_view word, std::uint64_t count) {
        for (std::size_t i = 0; i < word.size();) {
            const std::size_t length = character_length(word, i);
            const std::string_view character = word.substr(i, length);
            if (alphabet.has(character)) {
                text.insert(text.end(), character.begin(), character.end());
            } else {
                close(count);
            }
            i += length;
        }
        close(count);
    };
    words.drain_sorted(words.size(), before, add);
    for (const std::string& character : alphabet.characters) {
        text.insert(text.end(), character.begin(), character.end());
    }
}

namespace {

constexpr std::uint32_t kDifferent = 0;

struct Suffix {
    std::uint64_t key;  // its first 8 bytes, as a number that orders as they do
    std::uint32_t begin, segment;
};

// The suffixes of the segments in order, a part of them at a time.
class Suffixes {
  public:
    Suffixes(const Segments& segments, std::size_t max_length)
        : segments_(segments), max_length_(max_length), begins_(kBuckets + 1, 0) {
        each([&](std::size_t bucket, std::size_t, std::size_t) { ++begins_[bucket + 1]; });
        for (std::size_t b = 1; b < begins_.size(); ++b) begins_[b] += begins_[b - 1];
        most_ = std::max(begins_.back() / 8, kFew);
    }

    // Makes `part` the next suffixes. Their first two bytes differ from those of all others. False
    // if there are no more.
    bool next(int threads) {
        const std::size_t first = end_;
        if (first == kBuckets) return false;
        for (++end_; end_ < kBuckets && begins_[end_ + 1] - begins_[first] <= most_;) ++end_;
        std::vector<std::size_t> places(begins_.begin() + static_cast<std::ptrdiff_t>(first),
                                        begins_.begin() + static_cast<std::ptrdiff_t>(end_));
        part = Pages<Suffix>();
        part.resize(begins_[end_] - begins_[first]);
        if (part.empty()) return true;
        each([&](std::size_t bucket, std::size_t at, std::size_t segment) {
            if (bucket < first || bucket >= end_) return;
            part[places[bucket - first]++ - begins_[first]] = {
                key(at, segments_.begins[segment + 1]), static_cast<std::uint32_t>(at),
                static_cast<std::uint32_t>(segment)};
        });
        run_on_threads(
            end_ - first, threads, [] {},
            [&](const Next& task, const Tick&) {
                for (std::size_t b = task(); b < end_ - first; b = task()) {
                    const auto place = [&](std::size_t bucket) {
                        return part.begin() + static_cast<std::ptrdiff_t>(begins_[first + bucket] -
                                                                          begins_[first]);
                    };
                    std::sort(place(b), place(b + 1), [this](const Suffix& x, const Suffix& y) {
                        if (x.key != y.key) return x.key < y.key;
                        return view(x) < view(y);
                    });
                }
            });
        return true;
    }

    std::string_view view(const Suffix& suffix) const {
        const std::size_t end = segments_.begins[suffix.segment + 1];
        std::size_t at = suffix.begin;
        for (std::size_t n = 0; n < max_length_ && at < end; ++n) {
            at += character_length(text(), at);
        }
        return text().substr(suffix.begin, at - suffix.begin);
    }

    // The bytes of the character before a suffix; kDifferent at the beginning of a segment.
    std::uint32_t before(const Suffix& suffix) const {
        if (suffix.begin == segments_.begins[suffix.segment]) return kDifferent;
        std::uint32_t bytes = 0;
        for (std::size_t at = suffix.begin; at-- > 0;) {
            const auto byte = static_cast<unsigned char>(segments_.text[at]);
            bytes = bytes << 8 | byte;
            if (!continues(segments_.text[at])) break;
        }
        return bytes;
    }

    Pages<Suffix> part;

  private:
    static constexpr std::size_t kBuckets = 65536;  // by the first two bytes
    static constexpr std::size_t kFew = std::size_t{1} << 20;

    std::string_view text() const { return {segments_.text.data(), segments_.text.size()}; }

    std::uint64_t key(std::size_t at, std::size_t end) const {
        std::uint64_t key = 0;
        for (std::size_t b = at; b < at + 8; ++b) {
            key = key << 8 | (b < end ? static_cast<unsigned char>(segments_.text[b]) : 0);
        }
        return key;
    }

    // f(bucket, at, segment) for the suffixes in the order of the text.
    template <class F>
    void each(F f) const {
        for (std::size_t s = 0; s < segments_.size(); ++s) {
            const std::size_t end = segments_.begins[s + 1];
            for (std::size_t at = segments_.begins[s]; at < end;) {
                const auto first = static_cast<unsigned char>(segments_.text[at]);
                const auto second =
                    static_cast<unsigned char>(at + 1 < end ? segments_.text[at + 1] : 0);
                f(std::size_t{first} << 8 | second, at, s);
                at += character_length(text(), at);
            }
        }
    }

    const Segments& segments_;
    std::size_t max_length_;
    std::vector<std::size_t> begins_;  // of the buckets, in the order of all suffixes
    std::size_t end_ = 0, most_;       // of the last part's buckets; most suffixes of a part
};

// The best seeds of those that are added, at most `most` of them.
class Best {
  public:
    Best(const Segments& segments, std::size_t most) : segments_(segments), most_(most) {
        seeds.reserve(most_ + most_ / 4 + 1);
    }
    void add(const Seed& seed) {
        if (full_ && !better(seed, worst_)) return;
        seeds.push_back(seed);
        if (seeds.size() > most_ + most_ / 4) keep_best();
    }
    void keep_best() {
        if (seeds.size() <= most_) return;
        full_ = true;
        if (most_ == 0) return seeds.clear();
        const auto last = seeds.begin() + static_cast<std::ptrdiff_t>(most_ - 1);
        std::nth_element(seeds.begin(), last, seeds.end(),
                         [this](const Seed& a, const Seed& b) { return better(a, b); });
        worst_ = *last;
        seeds.resize(most_);
    }
    Pages<Seed> seeds;

  private:
    bool better(const Seed& a, const Seed& b) const {
        const double left = worth(a), right = worth(b);
        return left != right ? left > right : a.token(segments_) < b.token(segments_);
    }
    double worth(const Seed& seed) const {
        return seed.count * static_cast<double>(count_characters(seed.token(segments_)));
    }
    const Segments& segments_;
    std::size_t most_;
    bool full_ = false;  // seeds that are not better than worst_ were dropped
    Seed worst_{};
};

// The bytes of the longest common beginning of whole characters.
std::size_t common(std::string_view a, std::string_view b) {
    const std::size_t size = std::min(a.size(), b.size());
    std::size_t n = 0;
    while (n < size && a[n] == b[n]) ++n;
    while (n > 0 && n < a.size() && continues(a[n])) --n;
    return n;
}

}  // namespace

Pages<Seed> seeds(const Segments& segments, const UnigramTraining& options) {
    Suffixes suffixes(segments, options.max_token_length);
    struct Open {  // a beginning that the suffixes at hand share, and how often it has occurred
        std::size_t depth;
        double count;
        bool several;          // it begins more than one suffix, or is a whole segment
        std::uint32_t before;  // the character before each of them, or kDifferent
        void join(std::uint32_t other) {
            if (before != other) before = kDifferent;
        }
    };
    Best found(segments, std::min(options.seed_size, segments.text.size()));
    std::vector<Open> open;
    std::string_view view;
    const auto close = [&] {
        const Open top = open.back();
        open.pop_back();
        const std::string_view token = view.substr(0, top.depth);
        // What the same character always precedes is only ever a part of a longer string.
        if (top.several && top.before == kDifferent && top.count >= 2 &&
            count_characters(token) >= 2) {
            found.add({static_cast<std::uint32_t>(token.data() - segments.text.data()),
                       static_cast<std::uint32_t>(token.size()), top.count});
        }
        return top;
    };
    const auto join = [](Open& whole, const Open& part) {
        whole.count += part.count;
        whole.several = true;
        whole.join(part.before);
    };
    // Strings of two characters or more that begin suffixes of two parts differ.
    while (suffixes.next(options.threads)) {
        const Pages<Suffix>& part = suffixes.part;
        for (std::size_t i = 0; i < part.size(); ++i) {
            const Suffix& suffix = part[i];
            view = suffixes.view(suffix);
            const auto count = static_cast<double>(segments.count(suffix.segment));
            const bool whole = segments.begins[suffix.segment] == suffix.begin &&
                               view.size() == segments[suffix.segment].size();
            const std::uint32_t before = suffixes.before(suffix);
            if (!open.empty() && open.back().depth == view.size()) {
                open.back().count += count;
                open.back().several = true;
                open.back().join(before);
            } else {
                open.push_back({view.size(), count, whole, before});
            }
            const std::size_t shared =
                i + 1 < part.size() ? common(view, suffixes.view(part[i + 1])) : 0;
            Open closed{0, 0, false, 0};
            while (!open.empty() && open.back().depth > shared) {
                if (closed.count > 0) join(open.back(), closed);
                closed = close();
            }
            if (shared == 0 || closed.count == 0) continue;
            if (!open.empty() && open.back().depth == shared) {
                join(open.back(), closed);
            } else {
                open.push_back({shared, closed.count, true, closed.before});
            }
        }
    }
    found.keep_best();
    return std::move(found.seeds);
}

}  // namespace byhand::text
