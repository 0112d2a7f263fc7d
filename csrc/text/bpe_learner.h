// The loop of learning BPE: merge the most frequent pair, and keep the counts of pairs right.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "text/hash.h"
#include "text/pages.h"

namespace byhand::text {

// From pairs of tokens to places in an array. Nothing is ever removed.
class PairIndex {
  public:
    explicit PairIndex(std::size_t slots = 1024) : slots_(slots, Slot{0, kNowhere}) {}
    static constexpr std::uint32_t kNowhere = 0xFFFFFFFFu;

    // The place of a pair, kNowhere if it has none; to be set by the caller.
    std::uint32_t& operator[](std::uint64_t pair) {
        if (++used_ * 2 > slots_.size()) grow();
        Slot& slot = slots_[index(pair)];
        if (slot.place != kNowhere) --used_;
        slot.pair = pair;
        return slot.place;
    }
    std::uint32_t find(std::uint64_t pair) const { return slots_[index(pair)].place; }

  private:
    struct Slot {
        std::uint64_t pair;
        std::uint32_t place;
    };
    std::size_t index(std::uint64_t pair) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = hash_number(pair) & mask;
        while (slots_[i].place != kNowhere && slots_[i].pair != pair) i = (i + 1) & mask;
        return i;
    }
    void grow() {
        std::vector<Slot> old(slots_.size() * 2, Slot{0, kNowhere});
        old.swap(slots_);
        for (const Slot& slot : old) {
            if (slot.place != kNowhere) slots_[index(slot.pair)] = slot;
        }
    }
    std::vector<Slot> slots_;
    std::size_t used_ = 0;
};

// All distinct words lie in one array of units (bytes or characters). The first and the last unit
// of a token hold its id, so that its neighbours are found in both directions; kHole marks a unit
// where a token began that is now inside a longer one. kEdge stands between words.
//
// Only pairs that are at least as frequent as a threshold are known, with their positions. That is
// enough: the count of a pair is highest when its newer token was just made, and falls from then
// on. (A token is made in one way only: wherever it appears, no merge crossed its ends, so the same
// merges happened between them.) When the frequent ones are used up, a scan of the array finds
// those above a lower threshold. So most pairs, the rare ones, never cost anything.
template <class Symbol>
class BpeLearner {
  public:
    using Token = std::uint32_t;
    static constexpr Symbol kEdge = std::numeric_limits<Symbol>::max(), kHole = kEdge - 1;

    // Makes the next token out of two; false refuses it, for ever.
    using Join = std::function<bool(Token left, Token right)>;

    BpeLearner(std::size_t alphabet, std::size_t most_tokens, std::size_t units, std::size_t words)
        : lengths_(alphabet, 1), left_(most_tokens), right_(most_tokens) {
        // A position is a number of 32 bits.
        if (units + words + 2 > std::numeric_limits<std::uint32_t>::max()) {
            throw std::invalid_argument("the distinct words have more than 4 billion units");
        }
        symbols_.reserve(units + words + 1);
        starts_.reserve(words);
        weights_.reserve(words);
        symbols_.push_back(kEdge);
    }

    // A word is begun, then gets its units. One of fewer than two has no pairs and is left out.
    void begin_word(std::uint64_t weight) {
        drop_short_word();
        starts_.push_back(static_cast<std::uint32_t>(symbols_.size()));
        const auto stored = static_cast<std::uint32_t>(std::min<std::uint64_t>(weight, kLarge));
        if (stored == kLarge) large_weights_[weights_.size()] = weight;
        weights_.push_back(stored);
    }
    void add_unit(Token unit) { symbols_.push_back(static_cast<Symbol>(unit)); }
    void end_words() {
        drop_short_word();
        blocks_.assign(symbols_.size() / kBlock + 1, 0);
        for (std::uint32_t word = 0, block = 0; block < blocks_.size(); ++block) {
            while (word + 1 < starts_.size() && starts_[word + 1] <= block * kBlock) ++word;
            blocks_[block] = word;
        }
    }

    // Merges until there are `most` tokens or no pair has `min_count` occurrences.
    // progress(tokens) may throw.
    void learn(std::size_t most, std::uint64_t min_count, std::size_t max_length, const Join& join,
               const std::function<void(std::size_t)>& progress) {
        max_length_ = max_length;
        if (starts_.empty()) return;
        threshold_ = std::numeric_limits<std::uint64_t>::max();
        while (lengths_.size() < most) {
            if (queue_.empty()) {
                if (threshold_ <= min_count) return;
                scan(min_count);
                continue;
            }
            const Candidate top = queue_.top();
            queue_.pop();
            Pair& pair = pairs_[top.place];
            if (pair.count != top.count) {  // it has fallen since
                requeue(top.place);
                continue;
            }
            const Token left = pair.left, right = pair.right;
            const std::vector<std::uint32_t> positions = std::move(pair.positions);
            forget(pair);
            if (join(left, right)) {
                merge(left, right, positions);
                progress(lengths_.size());
            } else {
                refused_[key(left, right)] = 0;
            }
        }
    }

  private:
    static constexpr std::uint32_t kBlock = 32;
    static constexpr std::uint32_t kLarge = 0xFFFFFFFFu;

    struct Pair {
        Token left, right;
        std::uint64_t count;
        std::vector<std::uint32_t> positions;  // of `left`, ascending; some may be outdated
    };
    struct Candidate {
        std::uint64_t count;
        Token left, right;
        std::uint32_t place;
        bool operator<(const Candidate& other) const {  // the queue gives the largest first
            if (count != other.count) return count < other.count;
            return left != other.left ? left > other.left : right > other.right;
        }
    };
    // What a merge changes for one neighbour of the merged pair.
    struct Change {
        std::uint64_t lost = 0, gained = 0;
        std::uint32_t events = 0, place = PairIndex::kNowhere;
    };
    struct Event {
        Token neighbour;
        std::uint32_t position;
    };
    struct Side {  // the neighbours on one side
        explicit Side(std::size_t tokens) : changes(tokens) {}
        std::vector<Change> changes;
        std::vector<Token> touched;
        std::vector<Event> events;
        Change& touch(Token neighbour, std::uint32_t position) {
            Change& change = changes[neighbour];
            if (change.events++ == 0) touched.push_back(neighbour);
            events.push_back({neighbour, position});
            return change;
        }
    };

    static std::uint64_t key(Token left, Token right) { return std::uint64_t{left} << 32 | right; }

    void drop_short_word() {
        if (starts_.empty()) return;
        if (symbols_.size() - starts_.back() >= 2) {
            symbols_.push_back(kEdge);
        } else {
            symbols_.resize(starts_.back());
            starts_.pop_back();
            weights_.pop_back();
        }
    }

    std::uint64_t weight_at(std::uint32_t position) const {
        std::uint32_t word = blocks_[position / kBlock];
        while (word + 1 < starts_.size() && starts_[word + 1] <= position) ++word;
        return weight_of(word);
    }

    std::uint64_t weight_of(std::size_t word) const {
        return weights_[word] == kLarge ? large_weights_.at(word) : weights_[word];
    }

    // f(position, left, right, weight) for all neighbours.
    template <class F>
    void each_pair(F f) const {
        const Symbol* symbols = symbols_.data();
        for (std::size_t word = 0; word < starts_.size(); ++word) {
            const std::uint64_t weight = weight_of(word);
            std::uint32_t at = starts_[word];
            for (Symbol left = symbols[at];;) {
                const std::uint32_t next = at + lengths_[left];
                const Symbol right = symbols[next];
                if (right == kEdge) break;
                f(at, Token{left}, Token{right}, weight);
                at = next;
                left = right;
            }
        }
    }

    bool allowed(Token left, Token right) const {
        return std::size_t{lengths_[left]} + lengths_[right] <= max_length_ &&
               refused_.find(key(left, right)) == PairIndex::kNowhere;
    }

    // Finds the pairs above a lower threshold.
    void scan(std::uint64_t min_count) {
        pairs_.clear();
        index_ = PairIndex();
        // Sums of the counts of all pairs with the same hash, so no lower than a pair's count.
        std::size_t size = 4096;
        while (size < symbols_.size() / 2 && size < std::size_t{1} << 21) size *= 2;
        std::vector<std::uint64_t> sums(size, 0);
        each_pair([&](std::uint32_t, Token left, Token right, std::uint64_t weight) {
            if (allowed(left, right)) sums[hash_number(key(left, right)) & (size - 1)] += weight;
        });
        const std::uint64_t highest =
            std::min(*std::max_element(sums.begin(), sums.end()), threshold_ - 1);
        const auto known = [&](std::uint64_t sum) { return sum >= threshold_; };
        for (std::uint64_t step = kStep; step > 1; step /= 2) {
            threshold_ = std::max(min_count, highest / step);
            if (std::count_if(sums.begin(), sums.end(), known) <= kManyPairs) break;
        }
        std::vector<std::uint32_t> occurrences;
        each_pair([&](std::uint32_t, Token left, Token right, std::uint64_t weight) {
            if (sums[hash_number(key(left, right)) & (size - 1)] < threshold_) return;
            if (!allowed(left, right)) return;
            std::uint32_t& place = index_[key(left, right)];
            if (place == PairIndex::kNowhere) {
                place = static_cast<std::uint32_t>(pairs_.size());
                pairs_.push_back({left, right, 0, {}});
                occurrences.push_back(0);
            }
            pairs_[place].count += weight;
            ++occurrences[place];
        });
        std::vector<std::uint64_t>().swap(sums);
        raise_threshold(occurrences);
        for (std::size_t i = 0; i < pairs_.size(); ++i) {
            if (pairs_[i].count >= threshold_) {
                pairs_[i].positions.reserve(occurrences[i]);
            } else {
                pairs_[i].count = 0;
            }
        }
        each_pair([&](std::uint32_t at, Token left, Token right, std::uint64_t) {
            const std::uint32_t place = index_.find(key(left, right));
            if (place != PairIndex::kNowhere && pairs_[place].count > 0) {
                pairs_[place].positions.push_back(at);
            }
        });
        for (std::uint32_t place = 0; place < pairs_.size(); ++place) requeue(place);
    }

    // Makes it so high that the known pairs take at most as much memory as a quarter of the units
    // would if each had a position, or 16 MB; at least the most frequent pair stays.
    void raise_threshold(const std::vector<std::uint32_t>& occurrences) {
        std::vector<std::uint32_t> order(pairs_.size());
        for (std::uint32_t i = 0; i < order.size(); ++i) order[i] = i;
        std::sort(order.begin(), order.end(), [this](std::uint32_t a, std::uint32_t b) {
            return pairs_[a].count > pairs_[b].count;
        });
        const std::size_t most = std::max(symbols_.size() / 4, kFewPositions);
        constexpr std::size_t kOfPair = 128 / sizeof(std::uint32_t);  // what a pair takes beside
        std::size_t sum = 0;
        for (const std::uint32_t place : order) {
            if (pairs_[place].count < threshold_) return;
            sum += occurrences[place] + kOfPair;
            if (sum > most && pairs_[place].count < pairs_[order[0]].count) {
                threshold_ = pairs_[place].count + 1;
                return;
            }
        }
    }

    void forget(Pair& pair) {
        pair.count = 0;
        std::vector<std::uint32_t>().swap(pair.positions);
    }

    void requeue(std::uint32_t place) {
        Pair& pair = pairs_[place];
        if (pair.count >= threshold_) {
            queue_.push({pair.count, pair.left, pair.right, place});
        } else {
            forget(pair);
        }
    }

    void merge(Token left, Token right, const std::vector<std::uint32_t>& positions) {
        const auto made = static_cast<Token>(lengths_.size());
        lengths_.push_back(lengths_[left] + lengths_[right]);
        Symbol* symbols = symbols_.data();
        const std::uint32_t left_length = lengths_[left], right_length = lengths_[right];
        std::uint64_t twice = 0;  // the count of (made, made)
        std::vector<std::uint32_t> twice_at;
        for (const std::uint32_t at : positions) {
            if (symbols[at] != left) continue;
            const std::uint32_t middle = at + left_length;
            if (symbols[middle] != right) continue;
            const std::uint32_t end = middle + right_length;
            const std::uint64_t weight = weight_at(at);
            const Symbol before = symbols[at - 1], after = symbols[end];
            if (before == made) {  // the merge of the pair before this one counted (made, left)
                right_.changes[left].gained -= weight;
                twice += weight;
                twice_at.push_back(at - lengths_[made]);
            } else if (before != kEdge) {
                Change& change = left_.touch(before, at - lengths_[before]);
                change.lost += weight;
                change.gained += weight;
            }
            if (after != kEdge) {
                Change& change = right_.touch(after, at);
                change.lost += weight;
                change.gained += weight;
            }
            symbols[middle] = kHole;
            symbols[at] = symbols[end - 1] = static_cast<Symbol>(made);
        }
        for (const Token neighbour : left_.touched) {
            lose(neighbour, left, left_.changes[neighbour].lost);
        }
        for (const Token neighbour : right_.touched) {
            lose(right, neighbour, right_.changes[neighbour].lost);
        }
        add_pairs(made, twice, std::move(twice_at));
    }

    void lose(Token left, Token right, std::uint64_t count) {
        const std::uint32_t place = index_.find(key(left, right));
        if (place == PairIndex::kNowhere) return;
        Pair& pair = pairs_[place];
        if (pair.count > 0) pair.count -= count;
    }

    // The pairs of the new token with its neighbours, from left_ and right_.
    void add_pairs(Token made, std::uint64_t twice, std::vector<std::uint32_t> twice_at) {
        for (const Token other : left_.touched) {
            add_pair(other, made, left_.changes[other]);
        }
        for (const Token other : right_.touched) {
            add_pair(made, other, right_.changes[other]);
        }
        if (Change change; twice > 0) {
            change.gained = twice;
            add_pair(made, made, change);
            if (change.place != PairIndex::kNowhere) {
                pairs_[change.place].positions = std::move(twice_at);
            }
        }
        for (Side* side : {&left_, &right_}) {
            for (const Event& event : side->events) {
                const std::uint32_t place = side->changes[event.neighbour].place;
                if (place != PairIndex::kNowhere) {
                    pairs_[place].positions.push_back(event.position);
                }
            }
            for (const Token neighbour : side->touched) side->changes[neighbour] = Change();
            side->touched.clear();
            side->events.clear();
        }
    }

    void add_pair(Token left, Token right, Change& change) {
        if (change.gained < threshold_ || !allowed(left, right)) return;
        std::uint32_t& place = index_[key(left, right)];
        place = change.place = static_cast<std::uint32_t>(pairs_.size());
        pairs_.push_back({left, right, change.gained, {}});
        pairs_.back().positions.reserve(change.events);
        queue_.push({change.gained, left, right, place});
    }

    static constexpr std::uint64_t kStep = 8;  // from one threshold to the next, at most
    static constexpr std::size_t kFewPositions = std::size_t{1} << 22;
    static constexpr std::ptrdiff_t kManyPairs = std::ptrdiff_t{1} << 17;

    Pages<Symbol> symbols_;
    Pages<std::uint32_t> starts_, blocks_;  // of words; the word where each block begins
    Pages<std::uint32_t> weights_;          // of words; kLarge: it is in large_weights_
    std::unordered_map<std::size_t, std::uint64_t> large_weights_;
    std::vector<std::uint32_t> lengths_;  // of tokens, in units
    std::vector<Pair> pairs_;
    PairIndex index_, refused_;
    std::priority_queue<Candidate> queue_;
    Side left_, right_;
    std::uint64_t threshold_ = 0;
    std::size_t max_length_ = 0;
};

}  // namespace byhand::text
