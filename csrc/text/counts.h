// The distinct words of a text with their counts: what trainers learn from.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "text/text.h"

namespace byhand::text {

// Memory: for a distinct word its bytes (rounded up to 4), 12 bytes, and 8 in a hash table that is
// between 0.4 and 0.8 full.
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
        for (const auto& chunk : chunks_) walk(chunk, f);
    }
    // As each(), and leaves nothing: memory is given back on the way.
    template <class F>
    void drain(F f) {
        std::vector<Slot>().swap(slots_);
        for (auto& chunk : chunks_) {
            walk(chunk, f);
            chunk.bytes.reset();
        }
        clear();
    }

  private:
    // A record is the count (8 bytes), the size (4 bytes) and the bytes of a word. Records lie in
    // chunks, so that memory grows without copies; a record that needs more has a chunk of its own.
    static constexpr std::size_t kChunk = std::size_t{1} << 20, kHead = 12;
    struct Chunk {
        std::unique_ptr<char[]> bytes;
        std::size_t used, capacity;
    };
    struct Slot {
        std::uint32_t tag, place;  // 32 bits of the hash; chunk and offset / 4 of the record
    };
    static constexpr std::uint32_t kEmpty = 0xFFFFFFFFu;

    static std::uint32_t size_of(const char* record) {
        std::uint32_t size;
        std::memcpy(&size, record + 8, 4);
        return size;
    }
    static std::uint64_t count_of(const char* record) {
        std::uint64_t count;
        std::memcpy(&count, record, 8);
        return count;
    }
    template <class F>
    static void walk(const Chunk& chunk, F& f) {
        for (std::size_t at = 0; at < chunk.used;) {
            const char* record = chunk.bytes.get() + at;
            const std::size_t size = size_of(record);
            f(std::string_view(record + kHead, size), count_of(record));
            at += (kHead + size + 3) / 4 * 4;
        }
    }
    char* record_at(std::uint32_t place) const {
        return chunks_[place >> 18].bytes.get() + std::size_t{place & 0x3FFFFu} * 4;
    }
    std::uint32_t append(std::string_view word, std::uint64_t count);
    void grow();

    std::vector<Chunk> chunks_;
    std::vector<Slot> slots_;          // a power of two of them, or none
    std::size_t size_ = 0, open_ = 0;  // open_: the chunk that is being filled
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
