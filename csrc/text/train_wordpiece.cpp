#include "text/train_wordpiece.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

#include "text/hash.h"
#include "text/pages.h"
#include "text/trie.h"

namespace byhand::text {

namespace {

using PairIndex = std::uint32_t;
constexpr PairIndex kNoPair = 0xFFFFFFFF;
constexpr std::uint32_t kNotInHeap = 0xFFFFFFFF, kLarge = 0xFFFFFFFF;

double entropy_term(double count) { return count > 0 ? count * std::log(count) : 0; }

// Symbol: of 16 bits if there are few enough tokens, or of 32.
template <class Symbol>
class Trainer {
  public:
    // Leaves `counts` empty.
    Trainer(WordCounts& counts, const WordPieceTraining& options)
        : options_(options),
          alphabet_(counts, 2, options.limit_alphabet, options.initial_alphabet) {
        add_alphabet(counts);
        counts_.reserve(counts.size());
        begins_.reserve(counts.size() + 1);
        counts.drain([this](std::string_view word, std::uint64_t count) { add_word(word, count); });
        begins_.push_back(static_cast<std::uint32_t>(sequence_.size()));
        add_pairs();
        total_ = scored_total_ = count_symbols();
        for (PairIndex p = 0; p < pairs_.size(); ++p) rescore(p);
    }

    static constexpr Symbol kEnd = std::numeric_limits<Symbol>::max();  // after a word's symbols
    static constexpr Symbol kBarrier = kEnd - 1;  // not in the alphabet: joined with nothing

    std::vector<std::string> run(const Progress& progress) {
        std::size_t size = options_.special_tokens.size() + symbols_.size();
        const std::size_t first = size;
        const auto wanted = static_cast<std::int64_t>(options_.vocabulary_size - first);
        for (std::size_t merges = 0; size < options_.vocabulary_size && !heap_.empty(); ++merges) {
            if (merges % 64 == 0) progress(static_cast<std::int64_t>(size - first), wanted);
            join(heap_[0]);
            size = options_.special_tokens.size() + symbols_.size();
        }
        progress(wanted, wanted);
        std::vector<std::string> vocabulary = options_.special_tokens;
        for (const Piece& symbol : symbols_) vocabulary.push_back(symbol.token);
        return vocabulary;
    }

  private:
    struct Piece {
        std::string token;
        std::size_t characters;
        std::uint64_t count;
        std::vector<PairIndex> pairs;  // those it is part of; some may be gone
    };
    struct Pair {
        Symbol left, right;
        std::uint64_t count;
        double score;
        std::uint32_t place;               // in the heap
        std::uint32_t touched;             // the merge that last changed it
        std::vector<std::uint32_t> words;  // that have it; some no more
    };

    // --- Words
    // -------------------------------------------------------------------------------------

    Symbol symbol_of(const std::string& token, std::size_t characters) {
        const auto found = by_token_.emplace(token, static_cast<Symbol>(symbols_.size()));
        if (found.second) symbols_.push_back({token, characters, 0, {}});
        return found.first->second;
    }

    void add_alphabet(const WordCounts& counts) {
        std::vector<std::string> tokens;
        std::unordered_set<std::string_view> inside, at_begin;
        std::size_t characters = 0;
        counts.each([&](std::string_view word, std::uint64_t) {
            for (std::size_t i = 0; i < word.size(); ++characters) {
                const std::size_t length = character_length(word, i);
                (i == 0 ? at_begin : inside).insert(word.substr(i, length));
                i += length;
            }
        });
        if (characters > std::numeric_limits<std::uint32_t>::max()) {
            throw std::invalid_argument("the distinct words have more than 4294967295 characters");
        }
        sequence_.reserve(characters);
        for (const std::string& character : options_.initial_alphabet) {
            at_begin.insert(character);
            inside.insert(character);
        }
        for (const std::string& character : alphabet_.characters) {
            if (at_begin.count(character) != 0) tokens.push_back(character);
            if (inside.count(character) != 0) tokens.push_back(options_.prefix + character);
        }
        const std::size_t special = options_.special_tokens.size();
        if (special + tokens.size() > options_.vocabulary_size) {
            throw std::invalid_argument(
                "a vocabulary of " + std::to_string(options_.vocabulary_size) +
                " tokens is too small for " + std::to_string(special) +
                " special tokens and the alphabet of " + std::to_string(tokens.size()) +
                ": it needs at least " + std::to_string(special + tokens.size()));
        }
        std::sort(tokens.begin(), tokens.end());
        for (const std::string& token : tokens) symbol_of(token, 1);
    }

    void add_word(std::string_view word, std::uint64_t count) {
        const std::size_t begin = sequence_.size();
        std::string token;
        for (std::size_t i = 0; i < word.size();) {
            const std::size_t length = character_length(word, i);
            const std::string_view character = word.substr(i, length);
            if (alphabet_.has(character)) {
                token = i == 0 ? std::string() : options_.prefix;
                token += character;
                sequence_.push_back(by_token_.at(token));
            } else {
                sequence_.push_back(kBarrier);
            }
            i += length;
        }
        if (sequence_.size() - begin > options_.max_characters) {
            sequence_.resize(begin);
            return;
        }
        const auto stored = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, kLarge));
        if (stored == kLarge) large_counts_[static_cast<std::uint32_t>(counts_.size())] = count;
        counts_.push_back(stored);
        begins_.push_back(static_cast<std::uint32_t>(begin));
    }

    std::uint64_t count_of(std::uint32_t word) const {
        return counts_[word] == kLarge ? large_counts_.at(word) : counts_[word];
    }

    // Counts the symbols and pairs of all words.
    void add_pairs() {
        std::vector<std::uint32_t> occurrences;
        for (std::uint32_t word = 0; word < counts_.size(); ++word) {
            const std::uint64_t count = count_of(word);
            for (std::uint32_t i = begins_[word]; i < begins_[word + 1]; ++i) {
                if (sequence_[i] != kBarrier) symbols_[index(sequence_[i])].count += count;
                if (i == begins_[word]) continue;
                const PairIndex p = count_pair(sequence_[i - 1], sequence_[i], count);
                if (p == kNoPair) continue;
                occurrences.resize(pairs_.size());
                ++occurrences[p];
            }
        }
        for (PairIndex p = 0; p < pairs_.size(); ++p) pairs_[p].words.reserve(occurrences[p]);
        for (std::uint32_t word = 0; word < counts_.size(); ++word) {
            for (std::uint32_t i = begins_[word] + 1; i < begins_[word + 1]; ++i) {
                if (sequence_[i - 1] == kBarrier || sequence_[i] == kBarrier) continue;
                add_word_of(pairs_[by_pair_.at(key(sequence_[i - 1], sequence_[i]))], word);
            }
        }
    }

    static std::size_t index(Symbol symbol) { return static_cast<std::size_t>(symbol); }

    std::uint64_t count_symbols() const {
        std::uint64_t total = 0;
        for (const Piece& symbol : symbols_) total += symbol.count;
        return total;
    }

    // --- Pairs
    // -------------------------------------------------------------------------------------

    static std::uint64_t key(Symbol left, Symbol right) {
        return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
    }

    void touch(PairIndex p) {
        if (pairs_[p].touched == merge_) return;
        pairs_[p].touched = merge_;
        changed_.push_back(p);
    }

    PairIndex count_pair(Symbol left, Symbol right, std::uint64_t count) {
        if (left == kBarrier || right == kBarrier) return kNoPair;
        const auto found =
            by_pair_.emplace(key(left, right), static_cast<PairIndex>(pairs_.size()));
        const PairIndex p = found.first->second;
        if (found.second) pairs_.push_back({left, right, 0, 0, kNotInHeap, 0, {}});
        Pair& pair = pairs_[p];
        if (pair.count == 0) {
            symbols_[index(left)].pairs.push_back(p);
            if (right != left) symbols_[index(right)].pairs.push_back(p);
        }
        pair.count += count;
        touch(p);
        return p;
    }

    static void add_word_of(Pair& pair, std::uint32_t word) {
        if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    }

    void add_pair(Symbol left, Symbol right, std::uint32_t word) {
        const PairIndex p = count_pair(left, right, count_of(word));
        if (p != kNoPair) add_word_of(pairs_[p], word);
    }

    void remove_pair(Symbol left, Symbol right, std::uint32_t word) {
        if (left == kBarrier || right == kBarrier) return;
        const PairIndex p = by_pair_.at(key(left, right));
        pairs_[p].count -= count_of(word);
        touch(p);
    }

    void join(PairIndex p) {
        ++merge_;
        changed_.clear();
        const Symbol left = pairs_[p].left, right = pairs_[p].right;
        const std::size_t characters =
            symbols_[index(left)].characters + symbols_[index(right)].characters;
        const Symbol joined = symbol_of(joined_token(left, right), characters);
        const std::vector<std::uint32_t> words = std::move(pairs_[p].words);
        pairs_[p].words = {};
        for (const std::uint32_t word : words) join_in_word(word, left, right, joined);

        for (const PairIndex changed : changed_) rescore(changed);
        if (options_.score != PairScore::kFrequency) {
            rescore_pairs_of(left);
            if (right != left) rescore_pairs_of(right);
            rescore_pairs_of(joined);
        }
        // Each merge lowers n a little, which changes all scores; they follow when it is 1/100
        // less.
        if (options_.score == PairScore::kLikelihood &&
            static_cast<double>(total_) < 0.99 * static_cast<double>(scored_total_)) {
            scored_total_ = total_;
            for (PairIndex any = 0; any < pairs_.size(); ++any) {
                if (pairs_[any].place != kNotInHeap) rescore(any);
            }
        }
    }

    std::string joined_token(Symbol left, Symbol right) const {
        // What follows another token begins with the prefix.
        return symbols_[index(left)].token +
               symbols_[index(right)].token.substr(options_.prefix.size());
    }

    void join_in_word(std::uint32_t word, Symbol left, Symbol right, Symbol joined) {
        Symbol* const symbols = sequence_.data() + begins_[word];
        std::size_t size = begins_[word + 1] - begins_[word];
        while (size > 0 && symbols[size - 1] == kEnd) --size;
        const std::uint64_t count = count_of(word);
        std::size_t out = 0;
        for (std::size_t i = 0; i < size;) {
            if (symbols[i] != left || i + 1 == size || symbols[i + 1] != right) {
                symbols[out++] = symbols[i++];
                continue;
            }
            const Symbol before = out > 0 ? symbols[out - 1] : kBarrier;
            const Symbol after = i + 2 < size ? symbols[i + 2] : kBarrier;
            remove_pair(before, left, word);
            remove_pair(left, right, word);
            remove_pair(right, after, word);
            add_pair(before, joined, word);
            add_pair(joined, after, word);
            symbols_[index(left)].count -= count;
            symbols_[index(right)].count -= count;
            symbols_[index(joined)].count += count;
            total_ -= count;
            symbols[out++] = joined;
            i += 2;
        }
        std::fill(symbols + out, symbols + size, kEnd);
    }

    void rescore_pairs_of(Symbol symbol) {
        std::vector<PairIndex>& own = symbols_[index(symbol)].pairs;
        std::size_t kept = 0;
        for (const PairIndex p : own) {
            if (pairs_[p].count == 0) continue;
            own[kept++] = p;
            rescore(p);
        }
        own.resize(kept);
    }

    // --- Scores
    // ------------------------------------------------------------------------------------

    double score(const Pair& pair) const {
        const auto both = static_cast<double>(pair.count);
        const auto left = static_cast<double>(symbols_[index(pair.left)].count);
        const auto right = static_cast<double>(symbols_[index(pair.right)].count);
        if (options_.score == PairScore::kFrequency) return both;
        if (options_.score == PairScore::kRatio) return both / (left * right);
        const auto n = static_cast<double>(scored_total_);
        const double parts = pair.left == pair.right
                                 ? entropy_term(left - 2 * both) - entropy_term(left)
                                 : entropy_term(left - both) - entropy_term(left) +
                                       entropy_term(right - both) - entropy_term(right);
        return parts + entropy_term(both) + entropy_term(n) - entropy_term(n - both);
    }

    void rescore(PairIndex p) {
        Pair& pair = pairs_[p];
        const bool allowed =
            pair.count > 0 && pair.count >= options_.min_frequency &&
            symbols_[index(pair.left)].characters + symbols_[index(pair.right)].characters <=
                options_.max_token_length;
        if (!allowed) {
            if (pair.place != kNotInHeap) remove_from_heap(pair.place);
            if (pair.count == 0) pair.words = {};
            return;
        }
        const double now = score(pair);
        if (pair.place == kNotInHeap) {
            pair.score = now;
            pair.place = static_cast<std::uint32_t>(heap_.size());
            heap_.push_back(p);
            rise(pair.place);
        } else if (now != pair.score) {
            const bool up = now > pair.score;
            pair.score = now;
            if (up) {
                rise(pair.place);
            } else {
                sink(pair.place);
            }
        }
    }

    // --- A binary heap in which each pair knows its place ----------------------------------------

    bool before(PairIndex a, PairIndex b) const {
        const Pair& first = pairs_[a];
        const Pair& second = pairs_[b];
        if (first.score != second.score) return first.score > second.score;
        if (first.left != second.left) {
            return symbols_[index(first.left)].token < symbols_[index(second.left)].token;
        }
        return symbols_[index(first.right)].token < symbols_[index(second.right)].token;
    }

    void set(std::size_t place, PairIndex p) {
        heap_[place] = p;
        pairs_[p].place = static_cast<std::uint32_t>(place);
    }

    void rise(std::size_t place) {
        const PairIndex p = heap_[place];
        while (place > 0 && before(p, heap_[(place - 1) / 2])) {
            set(place, heap_[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        set(place, p);
    }

    void sink(std::size_t place) {
        const PairIndex p = heap_[place];
        while (true) {
            std::size_t child = 2 * place + 1;
            if (child >= heap_.size()) break;
            if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
            if (!before(heap_[child], p)) break;
            set(place, heap_[child]);
            place = child;
        }
        set(place, p);
    }

    void remove_from_heap(std::size_t place) {
        pairs_[heap_[place]].place = kNotInHeap;
        const PairIndex last = heap_.back();
        heap_.pop_back();
        if (place == heap_.size()) return;
        set(place, last);
        rise(place);
        sink(pairs_[last].place);
    }

    struct PairHash {
        std::size_t operator()(std::uint64_t pair) const { return hash_number(pair); }
    };

    const WordPieceTraining& options_;
    Alphabet alphabet_;
    std::vector<Piece> symbols_;
    std::unordered_map<std::string, Symbol> by_token_;
    // The symbols of word w are those from begins_[w] to begins_[w + 1], without kEnd.
    Pages<Symbol> sequence_;
    Pages<std::uint32_t> begins_;
    Pages<std::uint32_t> counts_;  // of words; kLarge: it is in large_counts_
    std::unordered_map<std::uint32_t, std::uint64_t> large_counts_;
    std::vector<Pair> pairs_;
    std::unordered_map<std::uint64_t, PairIndex, PairHash> by_pair_;
    std::vector<PairIndex> heap_;
    std::vector<PairIndex> changed_;  // by this merge
    std::uint32_t merge_ = 0;
    std::uint64_t total_ = 0, scored_total_ = 0;  // n now, and the one in the scores
};

}  // namespace

std::vector<std::string> train_wordpiece(WordCounts& counts, const WordPieceTraining& options,
                                         const Progress& progress) {
    if (options.vocabulary_size < Trainer<std::uint16_t>::kBarrier) {
        return Trainer<std::uint16_t>(counts, options).run(progress);
    }
    return Trainer<std::uint32_t>(counts, options).run(progress);
}

}  // namespace byhand::text
