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
    text.reserve(words.bytes());
    const auto close = [&](std::uint64_t count) {
        if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
            throw std::invalid_argument("the distinct words have more than 4294967295 bytes");
        }
        if (!begins.empty() && begins.back() == text.size()) return;
        begins.push_back(static_cast<std::uint32_t>(text.size()));
        counts.push_back(count);
    };
    begins.push_back(0);
    // In order, neighbouring words take the same ways through a trie.
    const auto before = [](const Counted& a, const Counted& b) { return a.word < b.word; };
    const auto add = [&](std::string_view word, std::uint64_t count) {
        for (std::size_t i = 0; i < word.size();) {
            const std::size_t length = character_length(word, i);
            const std::string_view character = word.substr(i, length);
            if (alphabet.has(character)) {
                text += character;
            } else {
                close(count);
            }
            i += length;
        }
        close(count);
    };
    words.drain_sorted(words.size(), before, add);
}

namespace {

constexpr std::uint32_t kDifferent = 0;

struct Suffix {
    std::uint64_t key;  // its first 8 bytes, as a number that orders as they do
    std::uint32_t begin, segment;
};

class Suffixes {
  public:
    Suffixes(const Segments& segments, std::size_t max_length, int threads)
        : segments_(segments), max_length_(max_length) {
        std::vector<std::size_t> counts(65537, 0);
        each([&](const Suffix& suffix) { ++counts[bucket(suffix) + 1]; });
        for (std::size_t b = 1; b < counts.size(); ++b) counts[b] += counts[b - 1];
        all.resize(counts.back());
        std::vector<std::size_t> next = counts;
        each([&](const Suffix& suffix) { all[next[bucket(suffix)]++] = suffix; });
        run_on_threads(
            65536, threads, [] {},
            [&](const Next& task, const Tick&) {
                for (std::size_t b = task(); b < 65536; b = task()) {
                    std::sort(all.begin() + static_cast<std::ptrdiff_t>(counts[b]),
                              all.begin() + static_cast<std::ptrdiff_t>(counts[b + 1]),
                              [this](const Suffix& a, const Suffix& b2) {
                                  if (a.key != b2.key) return a.key < b2.key;
                                  return view(a) < view(b2);
                              });
                }
            });
    }

    std::string_view view(const Suffix& suffix) const {
        const std::size_t end = segments_.begins[suffix.segment + 1];
        std::size_t at = suffix.begin;
        for (std::size_t n = 0; n < max_length_ && at < end; ++n) {
            at += character_length(segments_.text, at);
        }
        return std::string_view(segments_.text).substr(suffix.begin, at - suffix.begin);
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

    std::vector<Suffix> all;

  private:
    static std::size_t bucket(const Suffix& suffix) {
        return static_cast<std::size_t>(suffix.key >> 48);
    }
    template <class F>
    void each(F f) const {
        for (std::size_t s = 0; s < segments_.size(); ++s) {
            const std::size_t end = segments_.begins[s + 1];
            for (std::size_t at = segments_.begins[s]; at < end;) {
                std::uint64_t key = 0;
                for (std::size_t i = 0; i < 8; ++i) {
                    const std::size_t b = at + i;
                    key = key << 8 | (b < end ? static_cast<unsigned char>(segments_.text[b]) : 0);
                }
                f(Suffix{key, static_cast<std::uint32_t>(at), static_cast<std::uint32_t>(s)});
                at += character_length(segments_.text, at);
            }
        }
    }
    const Segments& segments_;
    std::size_t max_length_;
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

std::vector<Seed> seeds(const Segments& segments, const UnigramTraining& options) {
    const Suffixes suffixes(segments, options.max_token_length, options.threads);
    struct Open {  // a beginning that the suffixes at hand share, and how often it has occurred
        std::size_t depth;
        double count;
        bool several;          // it begins more than one suffix, or is a whole segment
        std::uint32_t before;  // the character before each of them, or kDifferent
        void join(std::uint32_t other) {
            if (before != other) before = kDifferent;
        }
    };
    std::vector<Seed> found;
    std::vector<Open> open;
    std::string_view view;
    const auto close = [&] {
        const Open top = open.back();
        open.pop_back();
        const std::string_view token = view.substr(0, top.depth);
        // What the same character always precedes is only ever a part of a longer string.
        if (top.several && top.before == kDifferent && top.count >= 2 &&
            count_characters(token) >= 2) {
            found.push_back({token, top.count});
        }
        return top;
    };
    const auto join = [](Open& whole, const Open& part) {
        whole.count += part.count;
        whole.several = true;
        whole.join(part.before);
    };
    for (std::size_t i = 0; i < suffixes.all.size(); ++i) {
        const Suffix& suffix = suffixes.all[i];
        view = suffixes.view(suffix);
        const auto count = static_cast<double>(segments.counts[suffix.segment]);
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
            i + 1 < suffixes.all.size() ? common(view, suffixes.view(suffixes.all[i + 1])) : 0;
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
    const auto worth = [](const Seed& seed) {
        return seed.count * static_cast<double>(count_characters(seed.token));
    };
    if (found.size() > options.seed_size) {
        std::nth_element(found.begin(),
                         found.begin() + static_cast<std::ptrdiff_t>(options.seed_size),
                         found.end(), [&](const Seed& a, const Seed& b) {
                             const double left = worth(a), right = worth(b);
                             return left != right ? left > right : a.token < b.token;
                         });
        found.resize(options.seed_size);
    }
    std::sort(found.begin(), found.end(),
              [](const Seed& a, const Seed& b) { return a.token < b.token; });
    return found;
}

}  // namespace byhand::text
