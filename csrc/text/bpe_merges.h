// The merges of byte-pair encoding: which two tokens may be joined, in which order, to which token.
#pragma once

#include <cstdint>
#include <vector>

#include "text/hash.h"
#include "text/text.h"

namespace byhand::text {

// A merge as one number: its rank in the upper half, the token it makes in the lower. The smallest
// of several is the one with the lowest rank.
using Merge = std::uint64_t;
constexpr Merge kNoMerge = ~Merge{0};

inline Merge make_merge(std::uint32_t rank, Id made) {
    return Merge{rank} << 32 | static_cast<std::uint32_t>(made);
}
inline std::uint32_t rank_of(Merge merge) { return static_cast<std::uint32_t>(merge >> 32); }
inline Id made_by(Merge merge) { return static_cast<Id>(merge & 0xFFFFFFFFu); }

// From a pair of ids to their merge: a square for the first 256 ids, which bytes have in most
// vocabularies, and open addressing for all others.
class Merges {
  public:
    void reserve(std::size_t merges) {
        std::size_t size = 16;
        while (size < merges * 2) size *= 2;
        if (size <= slots_.size()) return;
        std::vector<Slot> old(size, Slot{0, kNoMerge});
        old.swap(slots_);
        for (const Slot& slot : old) {
            if (slot.merge != kNoMerge) slots_[index(slot.pair)] = slot;
        }
    }
    void set(Id left, Id right, Merge merge) {
        if (in_square(left, right)) {
            if (square_.empty()) square_.assign(kSide * kSide, kNoMerge);
            square_[place(left, right)] = merge;
            return;
        }
        reserve(++count_);
        Slot& slot = slots_[index(key(left, right))];
        if (slot.merge != kNoMerge) --count_;
        slot = {key(left, right), merge};
    }
    Merge find(Id left, Id right) const {
        if (in_square(left, right)) return square_.empty() ? kNoMerge : square_[place(left, right)];
        if (slots_.empty()) return kNoMerge;
        return slots_[index(key(left, right))].merge;
    }

  private:
    struct Slot {
        std::uint64_t pair;
        Merge merge;
    };
    static constexpr std::size_t kSide = 256;
    static bool in_square(Id left, Id right) {
        return static_cast<std::uint32_t>(left | right) < kSide;
    }
    static std::size_t place(Id left, Id right) {
        return static_cast<std::size_t>(left) * kSide + static_cast<std::size_t>(right);
    }
    static std::uint64_t key(Id left, Id right) {
        return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
               static_cast<std::uint32_t>(right);
    }
    // The slot of this pair, or the empty one where it belongs.
    std::size_t index(std::uint64_t pair) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = hash_number(pair) & mask;
        while (slots_[i].merge != kNoMerge && slots_[i].pair != pair) i = (i + 1) & mask;
        return i;
    }

    std::vector<Merge> square_;
    std::vector<Slot> slots_;
    std::size_t count_ = 0;
};

// A part of a word while it is merged: its token, and bytes begin .. end - 1 of the word.
struct Part {
    Id id;
    std::int32_t begin, end;
};

// Each of these applies merges to the parts of a word until none is possible: always the one with
// the lowest rank, of equal ranks the leftmost. They differ in speed only.

// For short words: O(n^2) time, but without queues.
class ShortMerger {
  public:
    static constexpr std::size_t kMost = 40;  // parts, above which LongMerger is faster
    void run(const Merges& merges, std::vector<Part>& parts);

  private:
    std::vector<Merge> waiting_;  // of each part and the next
};

// Time linear in the number of parts. The positions of the pairs that can be merged wait in one
// list for each rank, in the order of the word; a tree of bits finds the lowest rank. An entry
// stays in its list when its pair is gone: a rank never comes back to a position, because parts
// only grow.
class LongMerger {
  public:
    // `made` has the token that the merge of each rank makes.
    void run(const Merges& merges, const std::vector<Id>& made, std::vector<Part>& parts);

  private:
    static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
    struct Node {
        Id id;
        std::uint32_t rank;           // of the merge of this part and the next
        std::int32_t previous, next;  // in the word
    };
    struct List {
        std::vector<std::int32_t> positions;
        std::size_t done = 0;
        bool ordered = true;
    };

    void start(std::size_t ranks);
    List& open_list(std::uint32_t rank, std::int32_t at);
    void wait(std::int32_t at, Merge merge);
    bool merge_run(const Merges& merges, Id made, std::int32_t at, bool& first);
    void mark(std::uint32_t rank, bool waiting);
    bool lowest(std::uint32_t& rank) const;
    List& list_of(std::uint32_t rank) { return lists_[places_[rank]]; }

    std::vector<Node> nodes_;
    std::vector<List> lists_;                       // those in use first
    std::vector<std::uint32_t> places_;             // of the list of each rank, or kNone
    std::vector<std::uint32_t> used_;               // ranks with a list
    std::vector<std::vector<std::uint64_t>> bits_;  // bits_[0]: which ranks have positions waiting
};

// BPE-dropout (Provilkov et al. 2020): each time a merge comes up it is dropped with a probability,
// and considered again after the next merge. The seed decides which; O(n log n).
void merge_with_dropout(const Merges& merges, double dropout, std::uint64_t seed,
                        std::vector<Part>& parts);

}  // namespace byhand::text
