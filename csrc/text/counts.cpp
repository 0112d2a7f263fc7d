#include "text/counts.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "text/hash.h"

namespace byhand::text {

void WordCounts::add(std::string_view word, std::uint64_t count) {
    if (count == 0 || word.empty()) return;
    if (word.size() > std::numeric_limits<std::uint32_t>::max()) {
        throw std::invalid_argument("a word of 4 GiB or more cannot be counted");
    }
    if ((size_ + 1) * 5 > slots_.size() * 4) grow();
    const std::size_t mask = slots_.size() - 1;
    const auto tag = static_cast<std::uint32_t>(hash_bytes(word));
    std::size_t i = tag & mask;
    for (; slots_[i].place != kEmpty; i = (i + 1) & mask) {
        if (slots_[i].tag != tag) continue;
        char* record = record_at(slots_[i].place);
        if (size_of(record) != word.size()) continue;
        if (std::memcmp(record + kHead, word.data(), word.size()) != 0) continue;
        const std::uint64_t before = count_of(record);
        const std::uint64_t sum = before + count;
        const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
        const std::uint64_t after = sum < before ? most : sum;
        std::memcpy(record, &after, 8);
        return;
    }
    slots_[i] = {tag, append(word, count)};
    ++size_;
    bytes_ += word.size();
}

std::uint32_t WordCounts::append(std::string_view word, std::uint64_t count) {
    const std::size_t needed = (kHead + word.size() + 3) / 4 * 4;
    const bool alone = needed > kChunk;
    if (chunks_.empty() || alone || chunks_[open_].used + needed > chunks_[open_].capacity) {
        if (chunks_.size() >= std::size_t{1} << 14) {
            throw std::invalid_argument("the text has more than 16 GiB of distinct words");
        }
        const std::size_t capacity = std::max(needed, kChunk);
        chunks_.push_back({std::unique_ptr<char[]>(new char[capacity]), 0, capacity});
        // A chunk with one long word is full at once: go on with the one before it.
        if (!alone || chunks_.size() == 1) open_ = chunks_.size() - 1;
    }
    const std::size_t which = alone ? chunks_.size() - 1 : open_;
    Chunk& chunk = chunks_[which];
    const std::size_t at = chunk.used;
    char* record = chunk.bytes.get() + at;
    const auto size = static_cast<std::uint32_t>(word.size());
    std::memcpy(record, &count, 8);
    std::memcpy(record + 8, &size, 4);
    std::memcpy(record + kHead, word.data(), word.size());
    chunk.used += needed;
    return static_cast<std::uint32_t>(which << 18 | at / 4);
}

void WordCounts::grow() {
    std::vector<Slot> old(std::max<std::size_t>(slots_.size() * 2, 256), Slot{0, kEmpty});
    old.swap(slots_);
    const std::size_t mask = slots_.size() - 1;
    for (const Slot slot : old) {
        if (slot.place == kEmpty) continue;
        std::size_t i = slot.tag & mask;
        while (slots_[i].place != kEmpty) i = (i + 1) & mask;
        slots_[i] = slot;
    }
}

void WordCounts::merge(const WordCounts& other) {
    if (&other == this) throw std::invalid_argument("counts cannot be merged with themselves");
    other.each([this](std::string_view word, std::uint64_t count) { add(word, count); });
}

void WordCounts::clear() {
    chunks_.clear();
    std::vector<Slot>().swap(slots_);
    size_ = open_ = 0;
    bytes_ = 0;
}

std::vector<CountedWord> WordCounts::items() const {
    std::vector<CountedWord> all;
    all.reserve(size_);
    each([&all](std::string_view word, std::uint64_t count) {
        all.push_back({std::string(word), count});
    });
    std::sort(all.begin(), all.end(),
              [](const CountedWord& a, const CountedWord& b) { return a.word < b.word; });
    return all;
}

}  // namespace byhand::text
