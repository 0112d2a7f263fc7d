#include "text/pipeline_added.h"

#include <algorithm>
#include <stdexcept>

#include "text/unicode.h"

namespace byhand::text {
namespace {

// Where the white space at the end of a text begins; not before `from`.
std::size_t space_at_end(std::string_view text, std::size_t from) {
    std::size_t begin = text.size();
    while (begin > from) {
        const std::size_t last = last_character(text, begin);
        if (!is_at(text, last, kSpace)) break;
        begin = last;
    }
    return begin;
}

std::size_t end_of_space(std::string_view text, std::size_t at) {
    std::size_t end = at;
    while (at < text.size() && is_at(text, at, kSpace, end)) at = end;
    return at;
}

bool is_alone(std::string_view text, std::size_t begin, std::size_t end) {
    return (begin == 0 || !is_at(text, last_character(text, begin), kWord)) &&
           (end == text.size() || !is_at(text, end, kWord));
}

}  // namespace

bool Allowed::has(Id id) const { return all || std::binary_search(ids.begin(), ids.end(), id); }

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
    for (const AddedToken& token : tokens_) {
        if (token.content.size() > kLongest) {
            throw std::invalid_argument("the added token with the id " + std::to_string(token.id) +
                                        " is longer than " + std::to_string(kLongest) + " bytes");
        }
    }
    const auto shorter = [](const AddedToken& a, const AddedToken& b) {
        return a.content < b.content;
    };
    const auto equal = [](const AddedToken& a, const AddedToken& b) {
        return a.content == b.content;
    };
    std::stable_sort(tokens_.begin(), tokens_.end(), shorter);
    tokens_.erase(std::unique(tokens_.begin(), tokens_.end(), equal), tokens_.end());
    if (!tokens_.empty() && tokens_.front().content.empty()) tokens_.erase(tokens_.begin());
    if (tokens_.empty()) return;

    // Breadth first, so that the children of a node follow each other. A node stands for the tokens
    // begin .. end - 1, whose first `depth` bytes are equal.
    struct Range {
        std::size_t begin, end, depth;
    };
    std::vector<Range> ranges{{0, tokens_.size(), 0}};
    nodes_.push_back({0, 0, -1, 0});
    for (std::size_t node = 0; node < nodes_.size(); ++node) {
        Range range = ranges[node];
        if (tokens_[range.begin].content.size() == range.depth) {
            nodes_[node].token = static_cast<std::int32_t>(range.begin++);
        }
        nodes_[node].first_child = static_cast<std::int32_t>(nodes_.size());
        while (range.begin < range.end) {
            const char byte = tokens_[range.begin].content[range.depth];
            std::size_t end = range.begin + 1;
            while (end < range.end && tokens_[end].content[range.depth] == byte) ++end;
            nodes_.push_back({0, 0, -1, static_cast<unsigned char>(byte)});
            ranges.push_back({range.begin, end, range.depth + 1});
            ++nodes_[node].children;
            range.begin = end;
        }
    }
    roots_.assign(256, -1);
    for (std::int32_t c = 0; c < nodes_[0].children; ++c) {
        const std::int32_t node = nodes_[0].first_child + c;
        roots_[nodes_[static_cast<std::size_t>(node)].byte] = node;
    }
}

std::int32_t AddedTokens::child(std::int32_t node, unsigned char byte) const {
    const Node& parent = nodes_[static_cast<std::size_t>(node)];
    const auto first = nodes_.begin() + parent.first_child, last = first + parent.children;
    const auto found = std::lower_bound(first, last, byte,
                                        [](const Node& a, unsigned char b) { return a.byte < b; });
    if (found == last || found->byte != byte) return -1;
    return static_cast<std::int32_t>(found - nodes_.begin());
}

const AddedToken* AddedTokens::longest(std::string_view text, std::size_t at,
                                       const Allowed& allowed) const {
    const AddedToken* found = nullptr;
    std::int32_t node = roots_[static_cast<unsigned char>(text[at])];
    while (node >= 0) {
        const std::int32_t number = nodes_[static_cast<std::size_t>(node)].token;
        if (number >= 0) {
            const AddedToken& token = tokens_[static_cast<std::size_t>(number)];
            if (!token.special || allowed.has(token.id)) found = &token;
        }
        if (++at == text.size()) break;
        node = child(node, static_cast<unsigned char>(text[at]));
    }
    return found;
}

void AddedTokens::split(std::string_view text, const Allowed& allowed,
                        std::vector<Piece>& pieces) const {
    const auto span = [](std::size_t begin, std::size_t end) {
        return Span{static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end)};
    };
    std::size_t done = 0;       // up to here the parts are appended
    std::size_t space_end = 0;  // of the last white space passed: no run of it is passed twice
    for (std::size_t at = 0; !nodes_.empty() && at < text.size();) {
        if (roots_[static_cast<unsigned char>(text[at])] < 0) {
            ++at;
            continue;
        }
        const AddedToken* token = longest(text, at, allowed);
        if (token == nullptr) {
            ++at;
            continue;
        }
        std::size_t begin = at, end = at + token->content.size();
        at = end;
        if (token->single_word && !is_alone(text, begin, end)) continue;
        if (token->lstrip) begin = space_at_end(text.substr(0, std::max(begin, done)), done);
        if (token->rstrip) {
            if (end >= space_end) space_end = end_of_space(text, end);
            end = space_end;
        }
        if (begin >= end) continue;  // white space that the last token has taken
        if (begin > done) pieces.push_back({-1, span(done, begin)});
        pieces.push_back({token->id, span(begin, end)});
        done = end;
    }
    if (done < text.size()) pieces.push_back({-1, span(done, text.size())});
}

}  // namespace byhand::text
