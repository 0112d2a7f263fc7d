#include "text/unigram.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "text/word_cache.h"

namespace byhand::text {

namespace {

constexpr Id kUnknown = -1;  // the id of an unknown character in a path
constexpr double kUnknownPenalty = 10;

void check_size(std::string_view word) {
    if (word.size() > std::numeric_limits<std::int32_t>::max()) {
        throw std::invalid_argument("a word has at most 2147483647 bytes, this one has " +
                                    std::to_string(word.size()));
    }
}

// The ids of <0x00> ... <0xFF>, -1 for those missing; none without byte_fallback.
std::vector<Id> ids_of_bytes(const Vocabulary& vocabulary, bool byte_fallback) {
    std::vector<Id> ids;
    for (std::size_t byte = 0; byte_fallback && byte < 256; ++byte) {
        ids.push_back(vocabulary.id_of(byte_token(byte)));
    }
    return ids;
}

// The ids whose tokens no text matches.
std::vector<Id> unmatched(const std::vector<Id>& bytes, const Unigram::Options& options) {
    std::vector<Id> ids = options.special;
    if (options.unk_id) ids.push_back(*options.unk_id);
    std::copy_if(bytes.begin(), bytes.end(), std::back_inserter(ids),
                 [](Id id) { return id >= 0; });
    return ids;
}

}  // namespace

Unigram::Unigram(const std::vector<std::string>& tokens, const std::vector<double>& scores,
                 const Options& options)
    : vocabulary_(tokens),
      bytes_(ids_of_bytes(vocabulary_, options.byte_fallback)),
      trie_(trie_of(tokens, unmatched(bytes_, options))),
      scores_(scores),
      unk_id_(options.unk_id.value_or(-1)),
      float32_(options.float32) {
    if (scores.size() != tokens.size()) {
        throw std::invalid_argument("there are " + std::to_string(tokens.size()) + " tokens and " +
                                    std::to_string(scores.size()) + " scores");
    }
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t id = 0; id < tokens.size(); ++id) {
        if (!std::isfinite(scores[id])) {
            throw std::invalid_argument("the score of the token " + quoted(tokens[id]) +
                                        " is not a finite number");
        }
        if (!tokens[id].empty()) least = std::min(least, scores[id]);
    }
    if (!std::isfinite(least)) least = 0;  // no tokens
    unk_score_ = least - kUnknownPenalty;
    if (float32_) {
        for (const double score : scores_) scores32_.push_back(static_cast<float>(score));
        unk_score_ = static_cast<float>(least) - static_cast<float>(kUnknownPenalty);
    }
}

void Unigram::emit_unknown(std::string_view characters, std::int64_t at, Tokens& out) const {
    const std::int64_t end = at + static_cast<std::int64_t>(characters.size());
    bool bytes = !bytes_.empty();
    for (std::size_t i = 0; bytes && i < characters.size(); ++i) {
        bytes = bytes_[static_cast<unsigned char>(characters[i])] >= 0;
    }
    if (bytes) {
        for (const char byte : characters) {
            out.add(bytes_[static_cast<unsigned char>(byte)], at, end);
        }
        return;
    }
    if (unk_id_ < 0) {
        throw std::invalid_argument("the vocabulary has no token for " + quoted(characters) +
                                    ", and there is no token for unknown characters");
    }
    out.add(unk_id_, at, end);
}

template <class Pieces>
void Unigram::emit(std::string_view word, std::int64_t at, const Pieces& pieces,
                   Tokens& out) const {
    for (std::size_t i = 0; i < pieces.size();) {
        const std::size_t begin = pieces[i].begin;
        const std::int64_t from = at + static_cast<std::int64_t>(begin);
        if (pieces[i].id != kUnknown) {
            out.add(pieces[i].id, from, at + static_cast<std::int64_t>(pieces[i].end));
            ++i;
            continue;
        }
        std::size_t end = begin;
        for (; i < pieces.size() && pieces[i].id == kUnknown; ++i) end = pieces[i].end;
        emit_unknown(word.substr(begin, end - begin), from, out);
    }
}

// --- The best division ---------------------------------------------------------------------------

template <class Real>
struct Unigram::Work : Scratch {
    struct Best {  // the best division of the bytes before a place: its last token
        Real score;
        std::uint32_t begin;
        Id id;
    };
    std::vector<Best> best;
    std::vector<Piece> path;
    WordCache cache;
    Tokens tokens;
};

std::unique_ptr<Model::Scratch> Unigram::scratch() const {
    if (float32_) return std::make_unique<Work<float>>();
    return std::make_unique<Work<double>>();
}

template <class Real>
void Unigram::viterbi(std::string_view word, std::int64_t at, Work<Real>& work, Tokens& out) const {
    constexpr std::uint32_t kNowhere = 0xFFFFFFFF;
    constexpr bool kSingle = sizeof(Real) == sizeof(float);
    const Real* scores;
    if constexpr (kSingle) {
        scores = scores32_.data();
    } else {
        scores = scores_.data();
    }
    const auto unk_score = static_cast<Real>(unk_score_);
    const std::size_t size = word.size();
    auto& best = work.best;
    best.assign(size + 1, {0, kNowhere, kUnknown});
    std::size_t frontier = 0;  // the last place that was reached
    for (std::size_t begin = 0; begin < size;) {
        const std::size_t single = begin + character_length(word, begin);
        Real here = best[begin].score;
        if (kSingle && std::abs(here) > Real(100000)) {
            // The sums of a long text would have no digits left for the scores of its last tokens:
            // only differences count. sentencepiece does so at the same places, to the bit.
            for (std::size_t i = begin; i <= frontier; ++i) {
                if (i == begin || best[i].begin != kNowhere) best[i].score -= here;
            }
            here = 0;
        }
        const auto reach = [&](std::size_t end, Id id, Real score) {
            auto& target = best[end];
            // Of equal sums the one whose last token is longest stays.
            if (target.begin == kNowhere || score > target.score) {
                target = {score, static_cast<std::uint32_t>(begin), id};
            }
            frontier = std::max(frontier, end);
        };
        bool known = false;
        Trie::Node node = Trie::kRoot;
        for (std::size_t i = begin; i < size; ++i) {
            if (!trie_.step(node, static_cast<unsigned char>(word[i]))) break;
            const Id id = trie_.value(node);
            if (id < 0) continue;
            reach(i + 1, id, scores[static_cast<std::size_t>(id)] + here);
            known = known || i + 1 == single;
        }
        if (!known) reach(single, kUnknown, unk_score + here);
        begin = single;
    }
    auto& path = work.path;
    path.clear();
    for (std::size_t end = size; end > 0; end = best[end].begin) {
        path.push_back({best[end].begin, static_cast<std::uint32_t>(end), best[end].id});
    }
    std::reverse(path.begin(), path.end());
    emit(word, at, path, out);
}

void Unigram::encode(std::string_view word, std::int64_t at, Scratch& scratch, Tokens& out) const {
    check_size(word);
    const auto run = [&](auto& work) {
        if (work.cache.find(word, at, out)) return;
        if (word.size() > WordCache::kBytes) return viterbi(word, at, work, out);
        work.tokens.ids.clear();
        work.tokens.spans.clear();
        work.tokens.with_spans = true;
        viterbi(word, at, work, work.tokens);
        work.cache.put(word, at, work.tokens, 0);
        out.ids.insert(out.ids.end(), work.tokens.ids.begin(), work.tokens.ids.end());
        if (out.with_spans) {
            out.spans.insert(out.spans.end(), work.tokens.spans.begin(), work.tokens.spans.end());
        }
    };
    if (float32_) {
        run(static_cast<Work<float>&>(scratch));
    } else {
        run(static_cast<Work<double>&>(scratch));
    }
}

// --- Several divisions ---------------------------------------------------------------------------

std::vector<Unigram::Edge> Unigram::edges(std::string_view word) const {
    check_size(word);
    std::vector<Edge> found;
    for (std::size_t begin = 0; begin < word.size();) {
        const std::size_t single = begin + character_length(word, begin);
        const auto from = static_cast<std::uint32_t>(begin);
        bool known = false;
        Trie::Node node = Trie::kRoot;
        for (std::size_t i = begin; i < word.size(); ++i) {
            if (!trie_.step(node, static_cast<unsigned char>(word[i]))) break;
            const Id id = trie_.value(node);
            if (id < 0) continue;
            known = known || i + 1 == single;
            found.push_back({from, static_cast<std::uint32_t>(i + 1), id,
                             scores_[static_cast<std::size_t>(id)]});
        }
        if (!known) {
            found.push_back({from, static_cast<std::uint32_t>(single), kUnknown, unk_score_});
        }
        begin = single;
    }
    return found;
}

std::vector<std::vector<Unigram::Edge>> Unigram::best_paths(std::string_view word, std::int64_t n,
                                                            std::vector<double>& scores) const {
    struct Entry {  // one of the best divisions of the bytes before a place
        double score;
        std::uint32_t edge, rank;  // its last token, and which division came before that
    };
    if (n < 1) throw std::invalid_argument("nbest must be at least 1, not " + std::to_string(n));
    // Memory for n divisions at each place.
    if (static_cast<std::uint64_t>(n) > (std::uint64_t{1} << 22) / (word.size() + 1)) {
        throw std::invalid_argument("a word of " + std::to_string(word.size()) +
                                    " bytes is too long for its " + std::to_string(n) +
                                    " best divisions");
    }
    const std::vector<Edge> all = edges(word);
    std::vector<std::vector<Entry>> at(word.size() + 1);
    at[0].push_back({0, 0, 0});
    const auto less = [](const Entry& a, const Entry& b) { return a.score > b.score; };
    std::size_t settled = 0;
    for (std::size_t e = 0; e <= all.size(); ++e) {
        // All tokens that end at a place begin before it, so its list is whole when the first
        // token that begins there comes.
        const std::size_t place = e < all.size() ? all[e].begin : word.size();
        for (; settled < place; ++settled) {
            auto& list = at[settled + 1];
            std::stable_sort(list.begin(), list.end(), less);
            if (list.size() > static_cast<std::size_t>(n)) list.resize(static_cast<std::size_t>(n));
            list.shrink_to_fit();
        }
        if (e == all.size()) break;
        const auto& before = at[all[e].begin];
        for (std::size_t rank = 0; rank < before.size(); ++rank) {
            at[all[e].end].push_back({before[rank].score + all[e].score,
                                      static_cast<std::uint32_t>(e),
                                      static_cast<std::uint32_t>(rank)});
        }
    }
    std::vector<std::vector<Edge>> paths;
    scores.clear();
    for (const Entry& last : at[word.size()]) {
        std::vector<Edge> path;
        Entry entry = last;
        for (std::size_t end = word.size(); end > 0;) {
            const Edge& edge = all[entry.edge];
            path.push_back(edge);
            end = edge.begin;
            entry = at[end][entry.rank];
        }
        std::reverse(path.begin(), path.end());
        paths.push_back(std::move(path));
        scores.push_back(last.score);
    }
    return paths;
}

std::vector<Unigram::Division> Unigram::best(std::string_view word, std::int64_t n) const {
    std::vector<double> scores;
    const auto paths = best_paths(word, n, scores);
    std::vector<Division> divisions;
    for (std::size_t i = 0; i < paths.size(); ++i) {
        Tokens tokens;
        emit(word, 0, paths[i], tokens);
        divisions.push_back({std::move(tokens.ids), scores[i]});
    }
    return divisions;
}

// Forward filtering, backward sampling: sums[p] is the log of the summed weights of all divisions
// of the bytes before p; tokens are then drawn from the last one to the first.
std::vector<Unigram::Edge> Unigram::sampled_path(std::string_view word, double alpha,
                                                 SplitMix& random) const {
    const std::vector<Edge> all = edges(word);
    std::vector<double> sums(word.size() + 1, -std::numeric_limits<double>::infinity());
    std::vector<std::size_t> first(word.size() + 2, 0);  // by_end[first[p]...]: those that end at p
    sums[0] = 0;
    for (const Edge& edge : all) {
        ++first[edge.end + 1];
        const double more = sums[edge.begin] + alpha * edge.score;
        double& sum = sums[edge.end];
        sum = std::max(sum, more) + std::log1p(std::exp(-std::abs(sum - more)));
    }
    for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    std::vector<std::size_t> by_end(all.size()), next(first);
    for (std::size_t e = 0; e < all.size(); ++e) by_end[next[all[e].end]++] = e;
    std::vector<Edge> path;
    for (std::size_t end = word.size(); end > 0; end = path.back().begin) {
        double left = random.uniform();
        std::size_t chosen = first[end];
        for (std::size_t i = first[end]; i < first[end + 1]; ++i) {
            const Edge& edge = all[by_end[i]];
            const double share = std::exp(sums[edge.begin] + alpha * edge.score - sums[end]);
            if (!(share > 0)) continue;
            chosen = i;  // rounding may leave something after the last one
            if (left < share) break;
            left -= share;
        }
        path.push_back(all[by_end[chosen]]);
    }
    std::reverse(path.begin(), path.end());
    return path;
}

void Unigram::sample(std::string_view word, std::int64_t at, double alpha, std::int64_t nbest,
                     SplitMix& random, Tokens& out) const {
    if (nbest < 1) return emit(word, at, sampled_path(word, alpha, random), out);
    std::vector<double> scores;
    const auto paths = best_paths(word, nbest, scores);
    std::vector<double> sums;
    for (const double score : scores) {
        const double weight = std::exp(alpha * (score - scores[0]));
        sums.push_back((sums.empty() ? 0 : sums.back()) + weight);
    }
    const double drawn = random.uniform() * sums.back();
    std::size_t chosen = 0;
    while (chosen + 1 < paths.size() && drawn >= sums[chosen]) ++chosen;
    emit(word, at, paths[chosen], out);
}

UnigramSampler::UnigramSampler(std::shared_ptr<const Unigram> model, double alpha,
                               std::int64_t nbest, std::uint64_t seed)
    : model_(std::move(model)), alpha_(alpha), nbest_(nbest), seed_(seed) {
    if (!std::isfinite(alpha) || alpha < 0) {
        throw std::invalid_argument("alpha must be a number of at least 0");
    }
}

void UnigramSampler::encode(std::string_view word, std::int64_t at, Scratch&, Tokens& out) const {
    SplitMix random{seed_};
    random.state = random.bits() ^ static_cast<std::uint64_t>(at);
    for (const char byte : word) {
        random.state = random.bits() ^ static_cast<unsigned char>(byte);
    }
    model_->sample(word, at, alpha_, nbest_, random, out);
}

}  // namespace byhand::text
