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

// Open addressing from a pair of ids to their merge.
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
        reserve(++count_);
        Slot& slot = slots_[index(key(left, right))];
        if (slot.merge != kNoMerge) --count_;
        slot = {key(left, right), merge};
    }
    Merge find(Id left, Id right) const {
        if (slots_.empty()) return kNoMerge;
        return slots_[index(key(left, right))].merge;
    }

private:
    struct Slot {
        std::uint64_t pair;
        Merge merge;
    };
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

// Time linear in the number of parts. The pairs that can be merged wait in one list for each rank,
// linked through the parts and ordered by position; a tree of bits finds the lowest rank.
class LongMerger {
public:
    void run(const Merges& merges, std::uint32_t ranks, std::vector<Part>& parts);

private:
    struct Node {
        Merge merge;                  // of this part and the next
        std::int32_t before, after;   // in the list of its rank
        std::int32_t previous, next;  // in the word
        Id id;
    };
    struct List {
        std::int32_t first = -1, last = -1;
        bool ordered = true;
    };

    void start(std::uint32_t ranks);
    void wait(std::int32_t at, Merge merge);
    void leave(std::int32_t at);
    void order(List& list);
    void mark(std::uint32_t rank, bool waiting);
    bool lowest(std::uint32_t& rank) const;

    std::vector<Node> nodes_;
    std::vector<List> lists_;                       // one for each rank
    std::vector<std::vector<std::uint64_t>> bits_;  // bits_[0]: which lists are not empty
    std::vector<std::int32_t> ordered_;
};

// BPE-dropout (Provilkov et al. 2020): each time a merge comes up it is dropped with a probability,
// and considered again after the next merge. The seed decides which; O(n log n).
void merge_with_dropout(const Merges& merges, double dropout, std::uint64_t seed,
                        std::vector<Part>& parts);

}  // namespace byhand::text
