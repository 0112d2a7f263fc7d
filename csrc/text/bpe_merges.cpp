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

void LongMerger::start(std::uint32_t ranks) {
    if (lists_.size() >= ranks) return;
    lists_.resize(ranks);
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

void LongMerger::wait(std::int32_t at, Merge merge) {
    Node* nodes = nodes_.data();
    nodes[at].merge = merge;
    if (merge == kNoMerge) return;
    List& list = lists_[rank_of(merge)];
    if (list.first < 0) {
        nodes[at].before = nodes[at].after = -1;
        list = {at, at, true};
        mark(rank_of(merge), true);
    } else if (at < list.first) {
        nodes[at].before = -1;
        nodes[at].after = list.first;
        nodes[list.first].before = at;
        list.first = at;
    } else {
        if (at < list.last) list.ordered = false;
        nodes[at].before = list.last;
        nodes[at].after = -1;
        nodes[list.last].after = at;
        list.last = at;
    }
}

void LongMerger::leave(std::int32_t at) {
    Node& node = nodes_[static_cast<std::size_t>(at)];
    if (node.merge == kNoMerge) return;
    List& list = lists_[rank_of(node.merge)];
    (node.before < 0 ? list.first : nodes_[static_cast<std::size_t>(node.before)].after) =
        node.after;
    (node.after < 0 ? list.last : nodes_[static_cast<std::size_t>(node.after)].before) =
        node.before;
    if (list.first < 0) mark(rank_of(node.merge), false);
    node.merge = kNoMerge;
}

void LongMerger::order(List& list) {
    ordered_.clear();
    for (std::int32_t at = list.first; at >= 0; at = nodes_[static_cast<std::size_t>(at)].after) {
        ordered_.push_back(at);
    }
    std::sort(ordered_.begin(), ordered_.end());
    list = {ordered_.front(), ordered_.back(), true};
    for (std::size_t i = 0; i < ordered_.size(); ++i) {
        Node& node = nodes_[static_cast<std::size_t>(ordered_[i])];
        node.before = i > 0 ? ordered_[i - 1] : -1;
        node.after = i + 1 < ordered_.size() ? ordered_[i + 1] : -1;
    }
}

void LongMerger::run(const Merges& merges, std::uint32_t ranks, std::vector<Part>& parts) {
    const auto n = static_cast<std::int32_t>(parts.size());
    if (n < 2 || ranks == 0) return;
    start(ranks);
    nodes_.resize(parts.size());
    Node* nodes = nodes_.data();
    for (std::int32_t i = 0; i < n; ++i) {
        nodes[i] = {kNoMerge, -1, -1, i - 1, i + 1 < n ? i + 1 : -1, parts[i].id};
    }
    for (std::int32_t i = 0; i + 1 < n; ++i) {
        wait(i, merges.find(nodes[i].id, nodes[i + 1].id));
    }
    for (std::uint32_t rank; lowest(rank);) {
        List& list = lists_[rank];
        if (!list.ordered) order(list);
        const std::int32_t at = list.first;
        const std::int32_t right = nodes[at].next;
        nodes[at].id = made_by(nodes[at].merge);
        leave(at);
        leave(right);
        nodes[right].id = -1;
        parts[static_cast<std::size_t>(at)].end = parts[static_cast<std::size_t>(right)].end;
        const std::int32_t next = nodes[at].next = nodes[right].next;
        const std::int32_t previous = nodes[at].previous;
        if (next >= 0) nodes[next].previous = at;
        if (previous >= 0) {
            leave(previous);
            wait(previous, merges.find(nodes[previous].id, nodes[at].id));
        }
        if (next >= 0) wait(at, merges.find(nodes[at].id, nodes[next].id));
    }
    std::size_t kept = 0;
    for (std::int32_t at = 0; at >= 0; at = nodes[at].next) {
        parts[kept] = parts[static_cast<std::size_t>(at)];
        parts[kept++].id = nodes[at].id;
    }
    parts.resize(kept);
    if (nodes_.size() > std::size_t{1} << 20) std::vector<Node>().swap(nodes_);
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
