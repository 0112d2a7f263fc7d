#include "text/bpe.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace byhand::text {

namespace {

constexpr std::size_t kLongestDerived = 4096;  // bytes; the time to derive merges is quadratic

std::size_t byte_of(char c) { return static_cast<unsigned char>(c); }

}  // namespace

// Tokens of short words, two at the place that their hash gives; the newest stay.
struct Bpe::Work final : Scratch {
    static constexpr std::size_t kKey = 16, kMost = 11, kBits = 13;
    struct Key {
        std::uint64_t low, high;
        std::size_t slot;
        explicit Key(std::string_view word)
            : low(load_up_to_8(word.data(), std::min<std::size_t>(word.size(), 8))), high(0) {
            if (word.size() > 8) high = load_up_to_8(word.data() + 8, word.size() - 8);
            std::uint64_t hash = (low ^ high * 0xD6E8FEB86659FD93u) * 0x9E3779B97F4A7C15u;
            hash ^= hash >> 32;
            slot = hash * 0x9E3779B97F4A7C15u >> (64 - kBits);
        }
    };
    struct Entry {
        std::uint64_t low, high;  // the word, filled with zeros
        std::uint16_t size, count;
        Id ids[kMost];
        bool is(const Key& key, std::size_t of_size) const {
            return low == key.low && high == key.high && size == of_size;
        }
    };
    std::vector<Entry> entries = std::vector<Entry>(std::size_t{2} << kBits);
    std::vector<Part> parts;
    ShortMerger few;
    LongMerger many;
};

std::unique_ptr<Model::Scratch> Bpe::scratch() const { return std::make_unique<Work>(); }

// --- The vocabulary -----------------------------------------------------------------------------

Bpe::Bpe(const std::vector<std::string>& vocabulary, const std::optional<Pairs>& merges,
         BpeOptions options)
    : options_(std::move(options)), vocabulary_(vocabulary) {
    if (!(options_.dropout >= 0 && options_.dropout <= 1)) {
        throw std::invalid_argument("dropout is a probability, from 0 to 1");
    }
    decorated_ = !options_.prefix.empty() || !options_.suffix.empty();
    whole_words_ = options_.ignore_merges || !merges;
    bool high_bytes = false;  // a byte above 127 alone is no character
    for (std::size_t byte = 0; byte < 256; ++byte) {
        const char one = static_cast<char>(byte);
        byte_ids_[byte] = vocabulary_.id_of({&one, 1});
        high_bytes |= byte >= 128 && byte_ids_[byte] >= 0;
        fallback_ids_[byte] = options_.byte_fallback ? vocabulary_.id_of(byte_token(byte)) : -1;
    }
    byte_level_ = options_.byte_level.value_or(!merges || high_bytes);
    all_bytes_ = byte_level_ && !decorated_ &&
                 std::all_of(byte_ids_.begin(), byte_ids_.end(), [](Id id) { return id >= 0; });
    if (!merges && (!byte_level_ || decorated_)) {
        throw std::invalid_argument(
            "a vocabulary without merges is one of bytes, without prefix or suffix");
    }
    if (options_.unk) unk_ = vocabulary_.id_of(*options_.unk);
    cuts_ = !decorated_;
    if (merges) {
        read_merges(*merges);
    } else {
        derive_merges();
    }
}

void Bpe::add_merge(Id left, Id right, std::uint32_t rank, Id made) {
    merges_.set(left, right, make_merge(rank, made));
    if (decorated_) return;
    const std::string_view a = token(left), b = token(right);
    if (byte_level_) {
        byte_joins_.set(byte_of(a.back()) << 8 | byte_of(b.front()));
        return;
    }
    const std::string_view last = a.substr(last_character(a, a.size()));
    const std::string_view first = b.substr(0, character_length(b, 0));
    if (last.size() == 1 && first.size() == 1) {
        byte_joins_.set(byte_of(last[0]) << 8 | byte_of(first[0]));
    } else if (const Id x = id_of(last), y = id_of(first); x >= 0 && y >= 0) {
        joins_.set(x, y, 0);
    }
}

void Bpe::read_merges(const Pairs& merges) {
    if (merges.size() >= std::numeric_limits<std::uint32_t>::max()) {
        throw std::invalid_argument("a tokenizer has fewer than 2^32 - 1 merges");
    }
    merges_.reserve(merges.size());
    for (std::uint32_t rank = 0; rank < merges.size(); ++rank) {
        const auto& [a, b] = merges[rank];
        const auto fail = [&, &a = a, &b = b](const std::string& what) {
            throw std::invalid_argument("merge " + std::to_string(rank) + " joins " + quoted(a) +
                                        " and " + quoted(b) + what);
        };
        const Id left = id_of(a), right = id_of(b);
        if (left < 0) fail(", but " + quoted(a) + " is not in the vocabulary");
        if (right < 0) fail(", but " + quoted(b) + " is not in the vocabulary");
        if (b.size() < options_.prefix.size()) fail(", but the second is shorter than the prefix");
        const std::string joined = a + b.substr(options_.prefix.size());
        const Id made = id_of(joined);
        if (made < 0) fail(", but " + quoted(joined) + " is not in the vocabulary");
        made_.push_back(made);
        add_merge(left, right, rank, made);  // of equal pairs the last one counts
    }
}

void Bpe::derive_merges() {
    for (Id id = 0; id < size(); ++id) {
        made_.push_back(id);
        const std::string_view bytes = token(id);
        if (bytes.size() > kLongestDerived) {
            throw std::invalid_argument("token " + std::to_string(id) + " has " +
                                        std::to_string(bytes.size()) + " bytes; " +
                                        std::to_string(kLongestDerived) +
                                        " are allowed in a vocabulary without merges");
        }
        for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
            const Id left = id_of(bytes.substr(0, cut));
            const Id right = left < 0 ? -1 : id_of(bytes.substr(cut));
            if (right >= 0) add_merge(left, right, static_cast<std::uint32_t>(id), id);
        }
    }
}

// --- Encoding -----------------------------------------------------------------------------------

void Bpe::encode(std::string_view word, std::int64_t at, Scratch& scratch, Tokens& out) const {
    if (word.empty()) return;
    if (word.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
        throw std::invalid_argument("a word of 2 GiB or more cannot be encoded");
    }
    Work& work = static_cast<Work&>(scratch);
    if (options_.dropout > 0) {
        work.parts.clear();
        begin_parts(word, work.parts);
        const std::uint64_t place = hash_number(static_cast<std::uint64_t>(at) ^ options_.seed);
        merge_with_dropout(merges_, options_.dropout, place ^ hash_bytes(word), work.parts);
        for (const Part& part : work.parts) out.add(part.id, at + part.begin, at + part.end);
    } else if (word.size() <= Work::kKey && !(decorated_ && out.with_spans)) {
        encode_cached(word, at, whole_words_, work, out);
    } else if (const Id id = whole_words_ ? id_of(word) : -1; id >= 0) {
        out.add(id, at, at + static_cast<std::int64_t>(word.size()));
    } else if (cuts_) {
        encode_long(word, at, work, out);
    } else {
        encode_parts(word, at, work, out);
    }
}

void Bpe::encode_cached(std::string_view word, std::int64_t at, bool whole, Work& work,
                        Tokens& out) const {
    const Work::Key key(word);
    Work::Entry* const entries = &work.entries[2 * key.slot];
    const bool second = !entries[0].is(key, word.size());
    if (!second || entries[1].is(key, word.size())) {
        const Work::Entry& entry = entries[second];
        if (!out.with_spans) {
            if (entry.count == 1) {
                out.ids.push_back(entry.ids[0]);
            } else {
                out.ids.insert(out.ids.end(), entry.ids, entry.ids + entry.count);
            }
            return;
        }
        for (std::size_t i = 0; i < entry.count; ++i) {  // every part is as long as its token
            const auto end = at + static_cast<std::int64_t>(token(entry.ids[i]).size());
            out.add(entry.ids[i], at, end);
            at = end;
        }
        return;
    }
    bool known = true;
    work.parts.clear();
    if (const Id id = whole ? id_of(word) : -1; id >= 0) {
        work.parts.push_back({id, 0, static_cast<std::int32_t>(word.size())});
    } else {
        known = begin_parts(word, work.parts);
        merge(work);
    }
    for (const Part& part : work.parts) out.add(part.id, at + part.begin, at + part.end);
    if (!known || work.parts.size() > Work::kMost) return;
    entries[1] = entries[0];
    Work::Entry& entry = entries[0];
    entry.low = key.low;
    entry.high = key.high;
    entry.size = static_cast<std::uint16_t>(word.size());
    entry.count = static_cast<std::uint16_t>(work.parts.size());
    for (std::size_t i = 0; i < work.parts.size(); ++i) entry.ids[i] = work.parts[i].id;
}

bool Bpe::joins(std::string_view left, Id left_id, std::string_view right, Id right_id) const {
    if (left_id < 0 || right_id < 0) return true;  // unknown ones may become one token
    if (byte_level_ || (left.size() == 1 && right.size() == 1)) {
        return byte_joins_[byte_of(left[0]) << 8 | byte_of(right[0])];
    }
    return joins_.find(left_id, right_id) != kNoMerge;
}

// Cuts a long word where no merge can join the two neighbours, which changes no token: a text that
// is one word to the pre-tokenizer becomes short words again.
void Bpe::encode_long(std::string_view word, std::int64_t at, Work& work, Tokens& out) const {
    std::size_t begin = 0;
    std::string_view left;
    Id left_id = -1;
    const auto encode_until = [&](std::size_t end) {
        const std::string_view piece = word.substr(begin, end - begin);
        const std::int64_t place = at + static_cast<std::int64_t>(begin);
        // With whole_words_ the cache has words, which may differ from pieces of the same bytes.
        if (piece.size() <= Work::kKey && !whole_words_) {
            encode_cached(piece, place, false, work, out);
        } else {
            encode_parts(piece, place, work, out);
        }
        begin = end;
    };
    if (all_bytes_) {
        for (std::size_t i = 1; i < word.size(); ++i) {
            if (!byte_joins_[byte_of(word[i - 1]) << 8 | byte_of(word[i])]) encode_until(i);
        }
        encode_until(word.size());
        return;
    }
    for (std::size_t i = 0; i < word.size();) {
        const std::string_view unit = unit_at(word, i);
        const Id id = unit_id(unit);
        if (i > 0 && !joins(left, left_id, unit, id)) encode_until(i);
        left = unit;
        left_id = id;
        i += unit.size();
    }
    encode_until(word.size());
}

void Bpe::encode_parts(std::string_view word, std::int64_t at, Work& work, Tokens& out) const {
    work.parts.clear();
    begin_parts(word, work.parts);
    merge(work);
    for (const Part& part : work.parts) out.add(part.id, at + part.begin, at + part.end);
    constexpr std::size_t most = std::size_t{1} << 20;  // memory to keep for the next word
    if (work.parts.capacity() > most) std::vector<Part>().swap(work.parts);
}

void Bpe::merge(Work& work) const {
    if (work.parts.size() <= ShortMerger::kMost) {
        work.few.run(merges_, work.parts);
        return;
    }
    try {
        work.many.run(merges_, made_, work.parts);
    } catch (...) {  // without memory; the next word must not find what is half done
        work.many = LongMerger();
        throw;
    }
}

std::string_view Bpe::unit_at(std::string_view word, std::size_t at) const {
    return word.substr(at, byte_level_ ? 1 : character_length(word, at));
}

Id Bpe::unit_id(std::string_view unit) const {
    return unit.size() == 1 ? byte_ids_[byte_of(unit[0])] : id_of(unit);
}

// Whether all units are tokens.
bool Bpe::begin_parts(std::string_view word, std::vector<Part>& parts) const {
    if (all_bytes_) {
        parts.resize(word.size());
        for (std::size_t i = 0; i < word.size(); ++i) {
            const auto at = static_cast<std::int32_t>(i);
            parts[i] = {byte_ids_[byte_of(word[i])], at, at + 1};
        }
        return true;
    }
    bool all_known = true, after_unknown = false;
    std::string decorated;
    for (std::size_t begin = 0; begin < word.size();) {
        std::string_view unit = unit_at(word, begin);
        const std::size_t end = begin + unit.size();
        if (decorated_) {
            decorated = unit;
            if (begin > 0) decorated.insert(0, options_.prefix);
            if (end == word.size()) decorated += options_.suffix;
            unit = decorated;
        }
        const Part part = {unit_id(unit), static_cast<std::int32_t>(begin),
                           static_cast<std::int32_t>(end)};
        if (part.id >= 0) {
            parts.push_back(part);
            after_unknown = false;
        } else {
            after_unknown = add_unknown(unit, part, after_unknown, parts);
            all_known = false;
        }
        begin = end;
    }
    return all_known;
}

// Whether the unknown token now stands for the unit.
bool Bpe::add_unknown(std::string_view unit, Part place, bool fuse,
                      std::vector<Part>& parts) const {
    const auto known = [this](char c) { return fallback_ids_[byte_of(c)] >= 0; };
    if (std::all_of(unit.begin(), unit.end(), known)) {
        // With a prefix or suffix there are more tokens than bytes of the word.
        for (std::size_t i = 0; i < unit.size(); ++i) {
            const std::int32_t begin =
                std::min(place.begin + static_cast<std::int32_t>(i), place.end - 1);
            parts.push_back({fallback_ids_[byte_of(unit[i])], begin, begin + 1});
        }
        return false;
    }
    if (!options_.unk) return false;
    if (unk_ < 0) {
        throw std::invalid_argument("the token for unknown characters, " + quoted(*options_.unk) +
                                    ", is not in the vocabulary");
    }
    if (fuse && options_.fuse_unk) {
        parts.back().end = place.end;
    } else {
        parts.push_back({unk_, place.begin, place.end});
    }
    return true;
}

}  // namespace byhand::text
