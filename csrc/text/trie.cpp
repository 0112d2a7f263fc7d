#include "text/trie.h"

#include <algorithm>
#include <deque>
#include <stdexcept>

namespace byhand::text {

// Places the nodes of sorted keys, parents before children.
class Trie::Builder {
  public:
    Builder(Pages<Unit>& units, std::size_t keys) : units_(units) {
        // Most keys have a unit of their own. Pages that stay unused cost nothing.
        units_.reserve(2 * keys + 256);
        links_.reserve(2 * keys + 256);
        grow();
        take(kRoot);
    }

    void build(const Key& key, std::vector<std::int32_t>& order) {
        struct Range {
            std::uint32_t begin, end, depth;  // keys that share their first `depth` bytes
            Node node;
        };
        std::deque<Range> open;
        if (!order.empty()) open.push_back({0, static_cast<std::uint32_t>(order.size()), 0, kRoot});
        std::vector<unsigned char> bytes;
        std::vector<std::uint32_t> begins;
        // A queue: nodes near the root, which every lookup visits, lie side by side.
        for (; !open.empty(); open.pop_front()) {
            const Range range = open.front();
            std::uint32_t i = range.begin;
            if (key(at(order, i)).size() == range.depth) {
                units_[range.node].value = order[i];
                while (i < range.end && key(at(order, i)).size() == range.depth) ++i;
            }
            bytes.clear();
            begins.clear();
            for (; i < range.end; ++i) {
                const auto byte = static_cast<unsigned char>(key(at(order, i))[range.depth]);
                if (bytes.empty() || bytes.back() != byte) {
                    bytes.push_back(byte);
                    begins.push_back(i);
                }
            }
            if (bytes.empty()) continue;
            const Node base = place(bytes);
            units_[range.node].base = base;
            begins.push_back(range.end);
            for (std::size_t c = 0; c < bytes.size(); ++c) {
                const Node child = base ^ bytes[c];
                take(child);
                units_[child].parent = range.node;
                const std::uint32_t first = begins[c];
                if (first + 1 == begins[c + 1] && key(at(order, first)).size() == range.depth + 1) {
                    units_[child].value = order[first];  // a leaf
                } else {
                    open.push_back({first, begins[c + 1], range.depth + 1, child});
                }
            }
        }
    }

  private:
    static std::size_t at(const std::vector<std::int32_t>& order, std::size_t i) {
        return static_cast<std::size_t>(order[i]);
    }

    // Free units form a circular list through kEnd, in the order of their indices at first.
    static constexpr Node kEnd = kNobody;
    struct Link {
        Node previous, next;
    };

    void grow() {
        const std::size_t begin = units_.size();
        if (begin > (std::size_t{1} << 31)) throw std::length_error("the vocabulary is too large");
        units_.resize(begin + 256);
        links_.resize(begin + 256);
        for (std::size_t i = begin; i < begin + 256; ++i) {
            const auto unit = static_cast<Node>(i);
            links_[i] = {last_, kEnd};
            (last_ == kEnd ? first_ : links_[last_].next) = unit;
            last_ = unit;
            taken_.push_back(false);
        }
    }

    void take(Node unit) {
        const Link link = links_[unit];
        (link.previous == kEnd ? first_ : links_[link.previous].next) = link.next;
        (link.next == kEnd ? last_ : links_[link.next].previous) = link.previous;
        taken_[unit] = true;
    }

    bool fits(Node base, const std::vector<unsigned char>& bytes) const {
        for (const unsigned char byte : bytes) {
            if (taken_[base ^ byte]) return false;
        }
        return true;
    }

    // A base whose units for these bytes are free. Only so many free units are tried, or building
    // would take time quadratic in the number of nodes.
    Node place(const std::vector<unsigned char>& bytes) {
        constexpr int kTries = 48;
        Node unit = first_;
        for (int tries = 0; unit != kEnd && tries < kTries; ++tries) {
            const Node base = unit ^ bytes[0];
            if (fits(base, bytes)) return base;
            unit = links_[unit].next;
        }
        unit = last_;
        for (int tries = 0; unit != kEnd && tries < kTries; ++tries) {
            const Node base = unit ^ bytes[0];
            if (fits(base, bytes)) return base;
            unit = links_[unit].previous;
        }
        const auto base = static_cast<Node>(units_.size());
        grow();
        return base;
    }

    Pages<Unit>& units_;
    Pages<Link> links_;
    std::vector<bool> taken_;
    Node first_ = kEnd, last_ = kEnd;
};

Trie::Trie(std::size_t count, const Key& key) {
    std::vector<std::int32_t> order;
    order.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        if (!key(i).empty()) order.push_back(static_cast<std::int32_t>(i));
    }
    const auto less = [&](std::int32_t a, std::int32_t b) {
        const int order_of =
            key(static_cast<std::size_t>(a)).compare(key(static_cast<std::size_t>(b)));
        return order_of != 0 ? order_of < 0 : a < b;
    };
    if (!std::is_sorted(order.begin(), order.end(), less)) {
        std::sort(order.begin(), order.end(), less);
    }
    Builder(units_, order.size()).build(key, order);
}

Trie trie_of(const std::vector<std::string>& tokens, const std::vector<Id>& special) {
    std::vector<std::string_view> keys(tokens.begin(), tokens.end());
    for (const Id id : special) {
        if (id < 0 || static_cast<std::size_t>(id) >= keys.size()) {
            throw std::invalid_argument("the special id " + std::to_string(id) +
                                        " is outside the vocabulary of " +
                                        std::to_string(keys.size()) + " tokens");
        }
        keys[static_cast<std::size_t>(id)] = {};
    }
    return Trie(keys);
}

}  // namespace byhand::text
