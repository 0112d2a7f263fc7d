#include "text/bpe_merges.h"

#include <algorithm>
#include <queue>

namespace byhand::text {

void ShortMerger::run(const Merges& merges, std::vector<Part>& parts) {
    const std::size_t n = parts.size();
    if (n < 2) return;
    if (waiting_.size() < n) waiting_.resize(n);
    Merge* waiting = waiting_.data();
    Part* part = parts.data();
    for (std::size_t i = 0; i + 1 < n; ++i) waiting[i] = merges.find(part[i].id, part[i + 1].id);
    std::size_t pairs = n - 1;
    while (pairs > 0) {
        std::size_t at = 0;
        for (std::size_t i = 1; i < pairs; ++i) {
            if (waiting[i] < waiting[at]) at = i;
        }
        if (waiting[at] == kNoMerge) break;
        part[at].id = made_by(waiting[at]);
        part[at].end = part[at + 1].end;
        for (std::size_t i = at + 1; i < pairs; ++i) {
            part[i] = part[i + 1];
            waiting[i - 1] = waiting[i];
        }
        --pairs;
        if (at > 0) waiting[at - 1] = merges.find(part[at - 1].id, part[at].id);
        if (at < pairs) waiting[at] = merges.find(part[at].id, part[at + 1].id);
    }
    parts.resize(pairs + 1);
}

// --- LongMerger ---------------------------------------------------------------------------------

void LongMerger::start(std::size_t ranks) {
    if (places_.size() >= ranks) return;
    places_.assign(ranks, kNone);
    bits_.clear();
    for (std::size_t size = ranks; bits_.empty() || size > 1;) {
        size = (size + 63) / 64;
        bits_.emplace_back(size, 0);
    }
}

void LongMerger::mark(std::uint32_t rank, bool waiting) {
    std::size_t i = rank;
    for (auto& level : bits_) {
        std::uint64_t& word = level[i / 64];
        const std::uint64_t bit = std::uint64_t{1} << i % 64;
        const bool others = (word & ~bit) != 0;
        word = waiting ? word | bit : word & ~bit;
        if (others) break;  // the levels above say already that something is here
        i /= 64;
    }
}

bool LongMerger::lowest(std::uint32_t& rank) const {
    if (bits_.back()[0] == 0) return false;
    std::size_t i = 0;
    for (auto level = bits_.rbegin(); level != bits_.rend(); ++level) {
        std::uint64_t word = (*level)[i];
        unsigned bit = 0;
        for (unsigned half = 32; half > 0; half /= 2) {
            if ((word & ((std::uint64_t{1} << half) - 1)) == 0) {
                word >>= half;
                bit += half;
            }
        }
        i = i * 64 + bit;
    }
    rank = static_cast<std::uint32_t>(i);
    return true;
}

// The list of a rank, where `at` is added next.
LongMerger::List& LongMerger::open_list(std::uint32_t rank, std::int32_t at) {
    if (places_[rank] == kNone) {
        places_[rank] = static_cast<std::uint32_t>(used_.size());
        used_.push_back(rank);
        if (lists_.size() < used_.size()) lists_.emplace_back();
    }
    List& list = list_of(rank);
    if (list.done == list.positions.size()) {
        mark(rank, true);
    } else if (at < list.positions.back()) {
        list.ordered = false;
    }
    return list;
}

void LongMerger::wait(std::int32_t at, Merge merge) {
    const std::uint32_t rank = merge == kNoMerge ? kNone : rank_of(merge);
    nodes_[static_cast<std::size_t>(at)].rank = rank;
    if (rank != kNone) open_list(rank, at).positions.push_back(at);
}

// Merges all pairs of a run of equal parts, "aaaa...", which begins at `at`, as the general way
// would one by one. False, and nothing is done, if a merge of a lower rank would come between.
// `first`: whether the rank is still the lowest afterwards.
bool LongMerger::merge_run(const Merges& merges, Id made, std::int32_t at, bool& first) {
    Node* nodes = nodes_.data();
    const Id id = nodes[at].id;
    const std::uint32_t rank = nodes[at].rank;
    const std::int32_t previous = nodes[at].previous;
    const Merge twice = merges.find(made, made);
    const Merge before = previous < 0 ? kNoMerge : merges.find(nodes[previous].id, made);
    if (rank_of(twice) <= rank || rank_of(before) <= rank) return false;
    if (rank_of(merges.find(made, id)) <= rank) return false;  // while the run is half done

    if (previous >= 0) wait(previous, before);
    const std::uint32_t twice_rank = twice == kNoMerge ? kNone : rank_of(twice);
    std::vector<std::int32_t>* waiting = nullptr;
    std::int32_t last = previous, next = at;
    while (next >= 0 && nodes[next].id == id) {
        const std::int32_t right = nodes[next].next;
        if (right < 0 || nodes[right].id != id) break;
        if (last != previous) {
            nodes[last].rank = twice_rank;
            if (twice_rank != kNone) {
                if (!waiting) waiting = &open_list(twice_rank, last).positions;
                waiting->push_back(last);
            }
        }
        const std::int32_t after = nodes[right].next;
        nodes[next] = {made, kNone, last, after};
        nodes[right].rank = kNone;
        last = next;
        next = after;
    }
    // Those of the run are done, and need not be looked at again one by one.
    List& list = list_of(rank);
    const auto behind = list.positions.begin() + static_cast<std::ptrdiff_t>(list.done);
    const auto end =
        next < 0 ? list.positions.end() : std::lower_bound(behind, list.positions.end(), next);
    list.done = static_cast<std::size_t>(end - list.positions.begin());
    if (next >= 0) {
        nodes[next].previous = last;
        const Merge merge = merges.find(made, nodes[next].id);
        wait(last, merge);
        first = rank_of(merge) > rank;
    }
    return true;
}

void LongMerger::run(const Merges& merges, const std::vector<Id>& made, std::vector<Part>& parts) {
    const auto n = static_cast<std::int32_t>(parts.size());
    if (n < 2 || made.empty()) return;
    start(made.size());
    nodes_.resize(parts.size());
    Node* nodes = nodes_.data();
    for (std::int32_t i = 0; i < n; ++i) {
        nodes[i] = {parts[static_cast<std::size_t>(i)].id, kNone, i - 1, i + 1 < n ? i + 1 : -1};
    }
    Merge merge = kNoMerge;
    for (std::int32_t i = 0; i + 1 < n; ++i) {
        const bool same = i > 0 && nodes[i + 1].id == nodes[i].id && nodes[i].id == nodes[i - 1].id;
        if (!same) merge = merges.find(nodes[i].id, nodes[i + 1].id);
        wait(i, merge);
    }
    for (std::uint32_t rank; lowest(rank);) {
        if (List& list = list_of(rank); !list.ordered) {
            std::sort(list.positions.begin() + static_cast<std::ptrdiff_t>(list.done),
                      list.positions.end());
            list.ordered = true;
        }
        bool first = true;  // no merge of a lower rank became possible
        while (first) {
            List& list = list_of(rank);
            if (list.done == list.positions.size()) {
                mark(rank, false);
                break;
            }
            const std::int32_t at = list.positions[list.done++];
            if (nodes[at].rank != rank) continue;
            if (nodes[at].id == nodes[nodes[at].next].id &&
                merge_run(merges, made[rank], at, first)) {
                continue;
            }
            const std::int32_t right = nodes[at].next;
            const std::int32_t next = nodes[right].next;
            const std::int32_t previous = nodes[at].previous;
            nodes[at] = {made[rank], kNone, previous, next};
            nodes[right].rank = kNone;
            if (previous >= 0) {
                merge = merges.find(nodes[previous].id, nodes[at].id);
                wait(previous, merge);
                first = rank_of(merge) > rank;
            }
            if (next >= 0) {
                nodes[next].previous = at;
                merge = merges.find(nodes[at].id, nodes[next].id);
                first &= rank_of(merge) > rank;
                // In a run of pairs, such as "abab", the next part is itself merged now.
                const List& now = list_of(rank);
                const bool run = first && nodes[next].rank == rank &&
                                 now.done < now.positions.size() && now.positions[now.done] == next;
                if (!run) wait(at, merge);
            }
        }
    }
    std::size_t kept = 0;
    for (std::int32_t at = 0; at >= 0; at = nodes[at].next) {
        const std::int32_t last = (nodes[at].next < 0 ? n : nodes[at].next) - 1;
        parts[kept++] = {nodes[at].id, parts[static_cast<std::size_t>(at)].begin,
                         parts[static_cast<std::size_t>(last)].end};
    }
    parts.resize(kept);

    constexpr std::int32_t most = 1 << 21;  // keep the memory unless this was a very long word
    if (n > most) {
        std::vector<Node>().swap(nodes_);
        std::vector<List>().swap(lists_);
    }
    for (const std::uint32_t rank : used_) {
        if (n <= most) {
            List& list = list_of(rank);
            list.positions.clear();
            list.done = 0;
        }
        places_[rank] = kNone;
    }
    used_.clear();
}

// --- Dropout ------------------------------------------------------------------------------------

void merge_with_dropout(const Merges& merges, double dropout, std::uint64_t seed,
                        std::vector<Part>& parts) {
    struct Waiting {
        Merge merge;
        std::int32_t at, right;
        Id left_id, right_id;
    };
    const auto later = [](const Waiting& a, const Waiting& b) {
        return rank_of(a.merge) != rank_of(b.merge) ? rank_of(a.merge) > rank_of(b.merge)
                                                    : a.at > b.at;
    };
    const auto n = static_cast<std::int32_t>(parts.size());
    std::vector<std::int32_t> previous(parts.size()), next(parts.size());
    std::vector<Waiting> dropped;
    std::priority_queue<Waiting, std::vector<Waiting>, decltype(later)> queue(later);
    const auto wait = [&](std::int32_t at) {
        const std::int32_t right = next[static_cast<std::size_t>(at)];
        if (right < 0) return;
        const Id left_id = parts[static_cast<std::size_t>(at)].id;
        const Id right_id = parts[static_cast<std::size_t>(right)].id;
        const Merge merge = merges.find(left_id, right_id);
        if (merge != kNoMerge) queue.push({merge, at, right, left_id, right_id});
    };
    for (std::int32_t i = 0; i < n; ++i) {
        previous[static_cast<std::size_t>(i)] = i - 1;
        next[static_cast<std::size_t>(i)] = i + 1 < n ? i + 1 : -1;
    }
    for (std::int32_t i = 0; i < n; ++i) wait(i);
    while (!queue.empty()) {
        const Waiting top = queue.top();
        queue.pop();
        Part& left = parts[static_cast<std::size_t>(top.at)];
        Part& right = parts[static_cast<std::size_t>(top.right)];
        if (left.id != top.left_id || right.id != top.right_id) continue;  // merged since
        if (next[static_cast<std::size_t>(top.at)] != top.right) continue;
        seed += 0x9E3779B97F4A7C15u;
        if (static_cast<double>(hash_number(seed) >> 11) * 0x1p-53 < dropout) {
            dropped.push_back(top);
            continue;
        }
        for (const Waiting& again : dropped) queue.push(again);
        dropped.clear();
        left.id = made_by(top.merge);
        left.end = right.end;
        right.id = -1;
        const std::int32_t after = next[static_cast<std::size_t>(top.right)];
        next[static_cast<std::size_t>(top.at)] = after;
        if (after >= 0) previous[static_cast<std::size_t>(after)] = top.at;
        const std::int32_t before = previous[static_cast<std::size_t>(top.at)];
        if (before >= 0) wait(before);
        wait(top.at);
    }
    parts.erase(std::remove_if(parts.begin(), parts.end(), [](const Part& p) { return p.id < 0; }),
                parts.end());
}

}  // namespace byhand::text
