// A set of byte strings with a value each, as a double array (Aoe, "An Efficient Digital Search
// Algorithm by Using a Double-Array Structure", 1989): one array access for each byte of a lookup.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/pages.h"
#include "text/text.h"

namespace byhand::text {

class Trie {
  public:
    using Node = std::uint32_t;
    static constexpr Node kRoot = 0;
    static constexpr std::int32_t kNoValue = -1;

    // Values are 0, 1, ... in the order of `keys`. Empty keys are left out. Of equal keys the first
    // one counts.
    explicit Trie(const std::vector<std::string_view>& keys)
        : Trie(keys.size(), [&keys](std::size_t i) { return keys[i]; }) {}
    using Key = std::function<std::string_view(std::size_t)>;
    Trie(std::size_t count, const Key& key);  // of key(0) ... key(count - 1)
    Trie() : Trie(std::vector<std::string_view>{}) {}

    // Goes from `node` along one byte. False, with `node` unchanged, if no key continues so.
    bool step(Node& node, unsigned char byte) const {
        const Node child = units_[node].base ^ byte;
        if (units_[child].parent != node) return false;
        node = child;
        return true;
    }
    // The value of the key that ends at this node, or kNoValue.
    std::int32_t value(Node node) const { return units_[node].value; }
    // The node after all of `path`, or false.
    bool walk(Node& node, std::string_view path) const {
        for (const char byte : path) {
            if (!step(node, static_cast<unsigned char>(byte))) return false;
        }
        return true;
    }
    std::int32_t find(std::string_view key) const {
        Node node = kRoot;
        return walk(node, key) ? value(node) : kNoValue;
    }

  private:
    static constexpr Node kNobody = 0xFFFFFFFF;
    // The child of node n along byte b is units[units[n].base ^ b], if its parent is n. A base is
    // always inside the array, whose length is a multiple of 256, so every child is too.
    struct Unit {
        Node base = 0;
        Node parent = kNobody;
        std::int32_t value = kNoValue;
    };
    class Builder;
    Pages<Unit> units_;
};

// The trie of a vocabulary, whose values are ids, without the tokens of the ids in `special`: no
// text matches them. Throws std::invalid_argument if one of those is out of range.
Trie trie_of(const std::vector<std::string>& tokens, const std::vector<Id>& special);

}  // namespace byhand::text
