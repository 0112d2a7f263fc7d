#include "text/train_unigram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "text/trie.h"
#include "text/vocabulary.h"

namespace byhand::text {

namespace {

struct Token {
    std::uint32_t begin;  // in Segments::text
    std::uint32_t size;   // in bytes
    double score;         // log probability
    double expected;      // how often it occurs in the words, as the last E step found
};

constexpr double kDropped = -std::numeric_limits<double>::infinity();  // a score

// The derivative of log gamma, for x > 0.
double digamma(double x) {
    double sum = 0;
    for (; x < 8; x += 1) sum -= 1 / x;
    const double r = 1 / (x * x);  // Abramowitz and Stegun 6.3.18
    return sum + std::log(x) - 0.5 / x -
           r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r / 132))));
}

class Trainer {
  public:
    Trainer(const Segments& segments, const UnigramTraining& options, const Alphabet& alphabet,
            const Tick& tick)
        : segments_(segments), options_(options), tick_(tick) {
        // Expected counts are sums of integers, for integers have the same sum in any order. No sum
        // passes the number of characters of all words.
        int exponent = 0;
        std::frexp(static_cast<double>(alphabet.total), &exponent);
        scale_ = std::ldexp(1.0, std::min(61 - exponent, 40));

        add_tokens(alphabet);
        double sum = 0;
        for (const Token& token : tokens) sum += token.expected;
        for (Token& token : tokens) token.score = std::log(token.expected / sum);
        least_ = alphabet.characters.size();
        index();
    }

    // Tokens that are left: those that EM dropped stay in `tokens` until the next prune().
    std::size_t size() const { return size_; }

    // One step of EM. Tokens expected less than half a time are dropped, if `drop`.
    void step(bool drop) {
        expect();
        double sum = 0;
        size_ = 0;
        for (Token& token : tokens) {
            if (token.score == kDropped) continue;
            if (drop && !is_character(token) && token.expected < 0.5) {
                token.score = kDropped;
                token.expected = 0;
                continue;
            }
            token.expected = std::max(token.expected, 0.5);
            sum += token.expected;
            ++size_;
        }
        // The mean of the log probabilities under the posterior of a Dirichlet process: rare tokens
        // get less than their share (Liang and Klein 2007, "Structured Bayesian nonparametric
        // models with variational inference").
        const double log_sum = digamma(sum);
        for (Token& token : tokens) {
            if (token.score != kDropped) token.score = digamma(token.expected) - log_sum;
        }
        probabilities();
    }

    // Leaves `wanted` tokens: those without which the log likelihood of the words loses most, when
    // the best division of a removed token takes its place.
    void prune(std::size_t wanted) {
        tokens.erase(std::remove_if(tokens.begin(), tokens.end(),
                                    [](const Token& token) { return token.score == kDropped; }),
                     tokens.end());
        index();
        if (tokens.size() <= wanted) return;
        Pages<double> loss(tokens.size());
        double sum = 0;
        for (const Token& token : tokens) sum += token.expected;
        run_on_threads(
            (tokens.size() + 4095) / 4096, options_.threads, tick_,
            [&](const Next& task, const Tick& tick) {
                std::vector<double> best;
                std::vector<std::pair<std::uint32_t, std::int32_t>> last;
                for (std::size_t block = task(); block * 4096 < tokens.size(); block = task()) {
                    const std::size_t end = std::min(tokens.size(), (block + 1) * 4096);
                    for (std::size_t t = block * 4096; t < end; ++t) {
                        loss[t] = is_character(tokens[t]) ? 0 : loss_without(t, sum, best, last);
                    }
                    tick();
                }
            });
        Pages<std::uint32_t> order;
        for (std::uint32_t t = 0; t < tokens.size(); ++t) {
            if (!is_character(tokens[t])) order.push_back(t);
        }
        const std::size_t keep = wanted > least_ ? wanted - least_ : 0;
        if (keep < order.size()) {
            std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(keep),
                             order.end(), [&](std::uint32_t a, std::uint32_t b) {
                                 return loss[a] != loss[b] ? loss[a] > loss[b] : a < b;
                             });
            order.resize(keep);
        }
        std::vector<bool> kept(tokens.size(), false);
        for (const std::uint32_t t : order) kept[t] = true;
        std::size_t next = 0;
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            if (kept[t] || is_character(tokens[t])) tokens[next++] = tokens[t];
        }
        tokens.resize(next);
        index();
    }

    std::string_view text(const Token& token) const {
        return {segments_.text.data() + token.begin, token.size};
    }

    Pages<Token> tokens;  // ordered by their bytes: the trie need not sort

  private:
    // Characters of the alphabet are never removed.
    bool is_character(const Token& token) const { return token.begin >= segments_.begins.back(); }

    void add_tokens(const Alphabet& alphabet) {
        Pages<Seed> found = seeds(segments_, options_);
        const std::vector<double> occurrences = count_characters(alphabet);
        std::uint32_t begin = segments_.begins.back();
        for (std::size_t c = 0; c < occurrences.size(); ++c) {
            const auto size = static_cast<std::uint32_t>(alphabet.characters[c].size());
            found.push_back({begin, size, std::max(occurrences[c], 1.0)});
            begin += size;
        }
        std::sort(found.begin(), found.end(), [this](const Seed& a, const Seed& b) {
            return a.token(segments_) < b.token(segments_);
        });
        tokens.reserve(found.size());
        for (const Seed& seed : found) tokens.push_back({seed.begin, seed.size, 0, seed.count});
    }

    std::vector<double> count_characters(const Alphabet& alphabet) const {
        std::vector<double> counts(alphabet.characters.size(), 0);
        for (std::size_t s = 0; s < segments_.size(); ++s) {
            const std::string_view segment = segments_[s];
            for (std::size_t i = 0; i < segment.size();) {
                const std::size_t length = character_length(segment, i);
                const auto found =
                    std::lower_bound(alphabet.characters.begin(), alphabet.characters.end(),
                                     segment.substr(i, length));
                counts[static_cast<std::size_t>(found - alphabet.characters.begin())] +=
                    static_cast<double>(segments_.count(s));
                i += length;
            }
        }
        return counts;
    }

    void index() {
        trie_ = Trie();
        trie_ = Trie(tokens.size(), [this](std::size_t t) { return text(tokens[t]); });
        size_ = tokens.size();
        probabilities();
    }

    void probabilities() {
        probability_.resize(tokens.size());
        for (std::size_t t = 0; t < tokens.size(); ++t) {
            probability_[t] = std::exp(tokens[t].score);
        }
    }

    // --- The E step: forward and backward over the divisions of each segment ---------------------

    struct Edge {
        std::uint32_t begin, end;
        std::int32_t id;
    };
    // Sums of products of probabilities. `shift[i]` says how often forward[i] was multiplied by
    // 2^250 so that it is not 0.
    struct Work {
        std::vector<double> forward, backward;
        std::vector<std::int32_t> shift;
        std::vector<Edge> edges;
        Pages<std::int64_t> sums;
    };
    static constexpr double kTiny = 0x1p-250, kHuge = 0x1p250;

    void expect() {
        constexpr std::size_t kBlock = 512;
        Pages<std::int64_t> sums;
        std::mutex lock;
        const std::size_t blocks = (segments_.size() + kBlock - 1) / kBlock;
        run_on_threads(blocks, options_.threads, tick_, [&](const Next& task, const Tick& tick) {
            Work work;
            work.sums.assign(tokens.size(), 0);
            for (std::size_t block = task(); block < blocks; block = task()) {
                const std::size_t end = std::min(segments_.size(), (block + 1) * kBlock);
                for (std::size_t s = block * kBlock; s < end; ++s) {
                    expect(segments_[s], static_cast<double>(segments_.count(s)), work);
                }
                tick();
            }
            const std::lock_guard<std::mutex> guard(lock);
            if (sums.empty()) return sums.swap(work.sums);
            for (std::size_t t = 0; t < sums.size(); ++t) sums[t] += work.sums[t];
        });
        for (std::size_t t = 0; t < sums.size(); ++t) {
            tokens[t].expected = static_cast<double>(sums[t]) / scale_;
        }
    }

    void expect(std::string_view segment, double count, Work& work) const {
        const std::size_t size = segment.size();
        auto& [forward, backward, shift, edges, sums] = work;
        forward.assign(size + 1, 0);
        backward.assign(size + 1, 0);
        shift.assign(size + 1, 0);
        edges.clear();
        forward[0] = backward[size] = 1;
        std::size_t frontier = 0;  // forward is 0 beyond it
        std::int32_t shifts = 0;
        for (std::size_t begin = 0; begin < size; begin += character_length(segment, begin)) {
            if (forward[begin] < kTiny) {
                for (std::size_t i = begin; i <= frontier; ++i) forward[i] *= kHuge;
                ++shifts;
            }
            shift[begin] = shifts;
            const double here = forward[begin];
            Trie::Node node = Trie::kRoot;
            for (std::size_t i = begin; i < size; ++i) {
                if (!trie_.step(node, static_cast<unsigned char>(segment[i]))) break;
                const std::int32_t id = trie_.value(node);
                if (id < 0) continue;
                const double probability = probability_[static_cast<std::size_t>(id)];
                if (probability == 0) continue;
                forward[i + 1] += here * probability;
                frontier = std::max(frontier, i + 1);
                edges.push_back(
                    {static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(i + 1), id});
            }
        }
        shift[size] = shifts;
        const double whole_count = count * scale_;
        const double weight = whole_count / forward[size];
        std::int32_t back = 0;  // as shift, of backward at the places that edges now read
        std::size_t farthest = 0;
        for (std::size_t e = edges.size(); e-- > 0;) {
            const Edge& edge = edges[e];
            if (e + 1 < edges.size() && edges[e + 1].begin != edge.begin) {
                // backward at the character that follows is whole.
                const std::size_t whole = edges[e + 1].begin;
                if (backward[whole] < kTiny) {
                    farthest = std::min(size, whole + 4 * options_.max_token_length);
                    for (std::size_t i = whole; i <= farthest; ++i) backward[i] *= kHuge;
                    ++back;
                }
            }
            const double rest =
                backward[edge.end] * probability_[static_cast<std::size_t>(edge.id)];
            backward[edge.begin] += rest;
            double share = forward[edge.begin] * rest * weight;
            if (const std::int32_t more = shift[edge.begin] + back - shifts; more != 0) {
                share = std::ldexp(share, -250 * more);
            }
            // Rounding may leave a share above the whole by some of its last bits.
            share = share < whole_count ? share : whole_count;
            sums[static_cast<std::size_t>(edge.id)] += static_cast<std::int64_t>(share + 0.5);
        }
    }

    // --- The loss of a token ---------------------------------------------------------------------

    double loss_without(std::size_t t, double sum, std::vector<double>& best,
                        std::vector<std::pair<std::uint32_t, std::int32_t>>& last) const {
        const Token& token = tokens[t];
        const std::string_view own = text(token);
        const std::size_t size = own.size();
        best.assign(size + 1, -1e300);
        last.assign(size + 1, {0, -1});
        best[0] = 0;
        for (std::size_t begin = 0; begin < size; begin += character_length(own, begin)) {
            Trie::Node node = Trie::kRoot;
            for (std::size_t i = begin; i < size; ++i) {
                if (!trie_.step(node, static_cast<unsigned char>(own[i]))) break;
                const std::int32_t id = trie_.value(node);
                if (id < 0 || static_cast<std::size_t>(id) == t) continue;
                const double score = best[begin] + tokens[static_cast<std::size_t>(id)].score;
                if (score > best[i + 1]) {
                    best[i + 1] = score;
                    last[i + 1] = {static_cast<std::uint32_t>(begin), id};
                }
            }
        }
        // Its occurrences are then counted for the tokens of its best division.
        double without = 0;
        int parts = 0;
        for (std::size_t end = size; end > 0; end = last[end].first, ++parts) {
            without += std::log(tokens[static_cast<std::size_t>(last[end].second)].expected +
                                token.expected);
        }
        without -= parts * std::log(sum + token.expected * (parts - 1));
        return token.expected * (std::log(token.expected) - std::log(sum) - without);
    }

    const Segments& segments_;
    const UnigramTraining& options_;
    const Tick& tick_;
    Trie trie_;
    Pages<double> probability_;
    double scale_ = 1;
    std::size_t least_ = 0, size_ = 0;
};

void check(const UnigramTraining& options, const Alphabet& alphabet) {
    const std::size_t fixed = options.special_tokens.size() + (options.byte_fallback ? 256 : 0);
    if (options.vocabulary_size < fixed + alphabet.characters.size()) {
        throw std::invalid_argument(
            "a vocabulary of " + std::to_string(options.vocabulary_size) +
            " tokens is too small for " + std::to_string(fixed) +
            " special tokens and the alphabet of " + std::to_string(alphabet.characters.size()) +
            " characters: it needs at least " + std::to_string(fixed + alphabet.characters.size()));
    }
}

}  // namespace

std::vector<std::pair<std::string, double>> train_unigram(WordCounts& counts,
                                                          const UnigramTraining& options,
                                                          const Progress& progress) {
    const Alphabet alphabet(counts, options.character_coverage, static_cast<std::size_t>(-1),
                            options.initial_alphabet);
    check(options, alphabet);
    const Segments segments(counts, alphabet);
    double done = 0;
    const Tick tick = [&] { progress(static_cast<std::int64_t>(1000 * done), 1000); };
    tick();
    Trainer trainer(segments, options, alphabet, tick);
    const std::size_t fixed = options.special_tokens.size() + (options.byte_fallback ? 256 : 0);
    const std::size_t wanted = options.vocabulary_size - fixed;
    // EM drops tokens too, so what it starts from is a little larger than what is wanted.
    const std::size_t most = wanted + wanted / 10;
    const auto first = static_cast<double>(std::max(trainer.size(), most + 1));
    while (true) {
        for (int i = 0; i < options.em_steps; ++i) trainer.step(true);
        if (trainer.size() <= most) break;
        const auto now = static_cast<double>(trainer.size());
        done = std::clamp(std::log(first / now) / std::log(first / static_cast<double>(most)), 0.0,
                          1.0);
        tick();
        trainer.prune(std::max(most, static_cast<std::size_t>(now * options.shrinking)));
    }
    trainer.prune(wanted);
    trainer.step(false);

    std::vector<std::pair<std::string, double>> vocabulary;
    for (const std::string& token : options.special_tokens) vocabulary.emplace_back(token, 0);
    for (std::size_t byte = 0; options.byte_fallback && byte < 256; ++byte) {
        vocabulary.emplace_back(byte_token(byte), 0);
    }
    Pages<Token>& tokens = trainer.tokens;
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const Token& a, const Token& b) { return a.score > b.score; });
    for (const Token& token : tokens) vocabulary.emplace_back(trainer.text(token), token.score);
    progress(1000, 1000);
    return vocabulary;
}

}  // namespace byhand::text
