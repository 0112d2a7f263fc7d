// The tokens of a vocabulary: bytes by id, and the id of bytes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "text/hash.h"
#include "text/text.h"

namespace byhand::text {

// Bytes for an error message: printable ASCII as it is, every other byte as \xNN.
inline std::string quoted(std::string_view bytes) {
    static const char* digits = "0123456789abcdef";
    std::string out = "'";
    for (std::size_t i = 0; i < bytes.size() && i < 60; ++i) {
        const auto byte = static_cast<unsigned char>(bytes[i]);
        if (byte >= 0x20 && byte < 0x7F && byte != '\\' && byte != '\'') {
            out += bytes[i];
        } else {
            out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
        }
    }
    return out + (bytes.size() > 60 ? "...'" : "'");
}

// <0x4A> for 0x4A: the token of a byte whose character is not in the vocabulary.
inline std::string byte_token(std::size_t byte) {
    static const char* digits = "0123456789ABCDEF";
    return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

class Vocabulary {
  public:
    // The index of a token is its id. An empty one stands for an id without a token.
    explicit Vocabulary(const std::vector<std::string>& tokens) {
        if (tokens.size() >= std::size_t{1} << 31) {
            throw std::invalid_argument("a vocabulary has fewer than 2^31 tokens");
        }
        std::size_t bytes = 0, slots = 16;
        for (const std::string& token : tokens) bytes += token.size();
        while (slots < tokens.size() * 2) slots *= 2;
        bytes_.reserve(bytes);
        begins_.reserve(tokens.size() + 1);
        begins_.push_back(0);
        for (const std::string& token : tokens) {
            bytes_ += token;
            begins_.push_back(bytes_.size());
        }
        slots_.assign(slots, -1);
        for (std::size_t id = 0; id < tokens.size(); ++id) {
            if (tokens[id].empty()) continue;
            Id& slot = slots_[slot_of(tokens[id])];
            if (slot >= 0) {
                throw std::invalid_argument("the token " + quoted(tokens[id]) + " has two ids, " +
                                            std::to_string(slot) + " and " + std::to_string(id));
            }
            slot = static_cast<Id>(id);
        }
    }

    std::int64_t size() const { return static_cast<std::int64_t>(begins_.size()) - 1; }
    std::string_view token(Id id) const {
        const auto i = static_cast<std::size_t>(id);
        const std::size_t begin = begins_[i];
        return std::string_view(bytes_).substr(begin, begins_[i + 1] - begin);
    }
    Id id_of(std::string_view token) const { return token.empty() ? -1 : slots_[slot_of(token)]; }

  private:
    // The slot with this token, or the empty one where it belongs.
    std::size_t slot_of(std::string_view wanted) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t i = hash_bytes(wanted) & mask;
        while (slots_[i] >= 0 && token(slots_[i]) != wanted) i = (i + 1) & mask;
        return i;
    }

    std::string bytes_;
    std::vector<std::size_t> begins_;
    std::vector<Id> slots_;  // open addressing
};

}  // namespace byhand::text
