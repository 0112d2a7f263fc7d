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
    const std::uint64_t hash = hash_bytes(word);
    const auto tag = static_cast<std::uint32_t>(hash);
    Table& table = tables_[hash >> (64 - kTableBits)];
    if ((table.used + 1) * 5 > table.slots.size() * 4) table.grow();
    const std::size_t size = table.slots.size();
    std::size_t i = table.first(tag);
    for (; table.slots[i].place != kEmpty; i = i + 1 == size ? 0 : i + 1) {
        const Slot slot = table.slots[i];
        if (slot.tag != tag) continue;
        char* const record = record_at(slot.place);
        if (word_of(record) != word) continue;
        const std::uint32_t stored = count_of(record);
        if (count < kLarge - stored) {
            const auto sum = static_cast<std::uint32_t>(stored + count);
            std::memcpy(record, &sum, 4);
            return;
        }
        const std::uint64_t before = at(slot.place).count;
        const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
        set_count(slot.place, count > most - before ? most : before + count);
        return;
    }
    const std::uint32_t place = append(word);
    set_count(place, count);
    table.slots[i] = {tag, place};
    ++table.used;
    ++size_;
    bytes_ += word.size();
}

void WordCounts::set_count(std::uint32_t place, std::uint64_t count) {
    const auto stored = static_cast<std::uint32_t>(std::min<std::uint64_t>(count, kLarge));
    if (stored == kLarge) large_[place] = count;
    std::memcpy(record_at(place), &stored, 4);
}

std::uint32_t WordCounts::append(std::string_view word) {
    const std::size_t needed = record_size(word.size());
    const bool alone = needed > kChunk;
    if (chunks_.empty() || alone || chunks_[open_].size() + needed > chunks_[open_].capacity()) {
        if (chunks_.size() >= std::size_t{1} << 14) {
            throw std::invalid_argument("the text has more than 16 GiB of distinct words");
        }
        chunks_.emplace_back();
        const std::size_t usual = chunks_.size() == 1 ? kFirstChunk : kChunk;
        chunks_.back().reserve(std::max(needed, usual));
        // A chunk with one long word is full at once: go on with the one before it.
        if (!alone || chunks_.size() == 1) open_ = chunks_.size() - 1;
    }
    const std::size_t which = alone ? chunks_.size() - 1 : open_;
    Pages<char>& chunk = chunks_[which];
    const std::size_t at = chunk.size();
    chunk.resize(at + needed);
    char* const record = &chunk[at];
    if (word.size() < kLong) {
        record[4] = static_cast<char>(word.size());
        std::memcpy(record + 5, word.data(), word.size());
    } else {
        const auto size = static_cast<std::uint32_t>(word.size());
        record[4] = static_cast<char>(kLong);
        std::memcpy(record + 5, &size, 4);
        std::memcpy(record + 9, word.data(), word.size());
    }
    return static_cast<std::uint32_t>(which << 18 | at / 4);
}

void WordCounts::Table::grow() {
    const std::size_t size = slots.size();
    const std::size_t more = size < 1024 ? std::max<std::size_t>(size, 32) : size / 2;
    Pages<Slot> old(size + more, Slot{0, kEmpty});
    old.swap(slots);
    for (const Slot slot : old) {
        if (slot.place == kEmpty) continue;
        std::size_t i = first(slot.tag);
        while (slots[i].place != kEmpty) i = i + 1 == slots.size() ? 0 : i + 1;
        slots[i] = slot;
    }
}

void WordCounts::merge(const WordCounts& other) {
    if (&other == this) throw std::invalid_argument("counts cannot be merged with themselves");
    other.each([this](std::string_view word, std::uint64_t count) { add(word, count); });
}

void WordCounts::clear() {
    chunks_.clear();
    tables_ = {};
    large_.clear();
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
