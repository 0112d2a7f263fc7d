// The distinct words of a text with their counts: what trainers learn from.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/pages.h"
#include "text/text.h"

namespace byhand::text {

struct Counted {
    std::string_view word;
    std::uint64_t count;
};

// Memory: for a distinct word its bytes and 5 more, rounded up to 4, and 10 to 15 in hash tables.
class WordCounts {
  public:
    // Counts a word `count` times. A count that would pass 2^64 - 1 stays there.
    void add(std::string_view word, std::uint64_t count = 1);
    void merge(const WordCounts& other);
    void clear();

    std::size_t size() const { return size_; }      // distinct words
    std::uint64_t bytes() const { return bytes_; }  // of the distinct words
    std::vector<CountedWord> items() const;         // ordered by the words' bytes

    // f(word, count) for each word, in the order of their first add().
    template <class F>
    void each(F f) const {
        const auto call = [&](std::uint32_t place) {
            const Counted counted = at(place);
            f(counted.word, counted.count);
        };
        for (std::size_t c = 0; c < chunks_.size(); ++c) each_place(c, call);
    }
    // As each(), and leaves nothing: memory is given back on the way.
    template <class F>
    void drain(F f) {
        tables_ = {};
        const auto call = [&](std::uint32_t place) {
            const Counted counted = at(place);
            f(counted.word, counted.count);
        };
        for (std::size_t c = 0; c < chunks_.size(); ++c) {
            each_place(c, call);
            Pages<char>().swap(chunks_[c]);
        }
        clear();
    }
    // f(word, count) for the first `most` words in the order of before(a, b), where a and b are
    // Counted. Leaves nothing.
    template <class Before, class F>
    void drain_sorted(std::size_t most, Before before, F f) {
        tables_ = {};
        Pages<std::uint32_t> places;
        places.reserve(size_);
        for (std::size_t c = 0; c < chunks_.size(); ++c) {
            each_place(c, [&](std::uint32_t place) { places.push_back(place); });
        }
        const auto by = [&](std::uint32_t a, std::uint32_t b) { return before(at(a), at(b)); };
        if (most < places.size()) {
            const auto end = places.begin() + static_cast<std::ptrdiff_t>(most);
            std::nth_element(places.begin(), end, places.end(), by);
            places.erase(end, places.end());
        }
        std::sort(places.begin(), places.end(), by);
        for (const std::uint32_t place : places) {
            const Counted counted = at(place);
            f(counted.word, counted.count);
        }
        clear();
    }

  private:
    // A record is a count (4 bytes; kLarge: it is in large_), the size of a word (1 byte; kLong: 4
    // more bytes have it) and the word. Records lie in chunks, so that memory grows without copies;
    // a record that needs more has a chunk of its own. The place of a record is the chunk and the
    // offset / 4.
    static constexpr std::size_t kChunk = std::size_t{1} << 20;
    static constexpr std::size_t kFirstChunk = std::size_t{448} << 10;  // small: by malloc, faster
    static constexpr std::uint32_t kLarge = 0xFFFFFFFFu;
    static constexpr unsigned char kLong = 255;
    struct Slot {
        std::uint32_t tag, place;  // the lower 32 bits of the hash
    };
    static constexpr std::uint32_t kEmpty = 0xFFFFFFFFu;
    // The hash table is divided by the upper bits of the hash, so that only a part of it is in
    // memory twice when it grows. Slots are in the order of tags, apart from collisions.
    struct Table {
        Pages<Slot> slots;
        std::size_t used = 0;
        void grow();
        std::size_t first(std::uint32_t tag) const {
            return static_cast<std::size_t>(std::uint64_t{tag} * slots.size() >> 32);
        }
    };
    static constexpr int kTableBits = 4;

    char* record_at(std::uint32_t place) { return &chunks_[place >> 18][offset_of(place)]; }
    const char* record_at(std::uint32_t place) const {
        return &chunks_[place >> 18][offset_of(place)];
    }
    static std::size_t offset_of(std::uint32_t place) { return std::size_t{place & 0x3FFFFu} * 4; }
    static std::string_view word_of(const char* record) {
        const auto size = static_cast<unsigned char>(record[4]);
        if (size != kLong) return {record + 5, size};
        std::uint32_t long_size;
        std::memcpy(&long_size, record + 5, 4);
        return {record + 9, long_size};
    }
    static std::size_t record_size(std::size_t word) {
        return ((word < kLong ? 5 : 9) + word + 3) / 4 * 4;
    }
    static std::uint32_t count_of(const char* record) {
        std::uint32_t count;
        std::memcpy(&count, record, 4);
        return count;
    }
    Counted at(std::uint32_t place) const {
        const char* const record = record_at(place);
        const std::uint32_t count = count_of(record);
        return {word_of(record), count == kLarge ? large_.at(place) : count};
    }
    void set_count(std::uint32_t place, std::uint64_t count);
    template <class F>
    void each_place(std::size_t chunk, F f) const {
        const Pages<char>& bytes = chunks_[chunk];
        for (std::size_t i = 0; i < bytes.size(); i += record_size(word_of(&bytes[i]).size())) {
            f(static_cast<std::uint32_t>(chunk << 18 | i / 4));
        }
    }
    std::uint32_t append(std::string_view word);

    std::vector<Pages<char>> chunks_;  // their capacities are reserved: no word moves
    std::array<Table, std::size_t{1} << kTableBits> tables_;
    std::unordered_map<std::uint32_t, std::uint64_t> large_;  // counts by places
    std::size_t size_ = 0, open_ = 0;                         // open_: the chunk to be filled
    std::uint64_t bytes_ = 0;
};

// Counts for one of several threads. They move to the shared counts whenever there are many, so
// that memory does not grow with the number of threads.
class LocalCounts {
  public:
    LocalCounts(WordCounts& shared, std::mutex& mutex) : shared_(shared), mutex_(mutex) {}
    void add(std::string_view word) {
        local_.add(word);
        if (local_.size() >= kMost || local_.bytes() >= kMostBytes) flush();
    }
    void flush() {  // at the end, too: a destructor cannot report that memory ran out
        const std::lock_guard lock(mutex_);
        shared_.merge(local_);
        local_.clear();
    }

  private:
    static constexpr std::size_t kMost = std::size_t{1} << 15, kMostBytes = std::size_t{1} << 21;
    WordCounts& shared_;
    std::mutex& mutex_;
    WordCounts local_;
};

}  // namespace byhand::text
