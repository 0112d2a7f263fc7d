#include "text/train_bpe.h"

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>
#include <unordered_map>

#include "text/bpe_learner.h"
#include "text/vocabulary.h"

namespace byhand::text {

namespace {

// The characters or bytes that words begin as, and the special tokens.
class Units {
  public:
    Units(const WordCounts& counts, const BpeTraining& training) : training_(training) {
        if (training.byte_level) {
            if (training.limit_alphabet || !training.initial_alphabet.empty()) {
                throw std::invalid_argument(
                    "limit_alphabet and initial_alphabet are about characters: a byte-level "
                    "vocabulary always has the 256 bytes");
            }
            for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
            units_ = counts.bytes();
        } else {
            choose_characters(counts);
        }
        for (const std::string& special : training.special_tokens) {
            if (special.empty()) throw std::invalid_argument("a special token is empty");
            if (ids_.count(special)) {
                throw std::invalid_argument("the special token " + quoted(special) +
                                            " is given twice or is a part of the alphabet");
            }
            ids_[special] = kSpecial;
        }
    }

    static constexpr std::uint32_t kSpecial = 0xFFFFFFFFu;
    std::size_t count() const { return units_; }  // of the distinct words, in all
    std::vector<std::string>& tokens() { return tokens_; }
    std::unordered_map<std::string, std::uint32_t>& ids() { return ids_; }

    // f(id or kSpecial for a character that was left out) for each unit of a word.
    template <class F>
    void each_unit(std::string_view word, F f) const {
        if (training_.byte_level && undecorated()) {  // ids are bytes
            for (const char byte : word) f(static_cast<unsigned char>(byte));
            return;
        }
        for (std::size_t at = 0; at < word.size();) {
            const std::size_t size = training_.byte_level ? 1 : character_length(word, at);
            const auto found = ids_.find(decorated(word, at, size));
            f(found == ids_.end() ? kSpecial : found->second);
            at += size;
        }
    }

  private:
    bool undecorated() const { return training_.prefix.empty() && training_.suffix.empty(); }

    std::string decorated(std::string_view word, std::size_t at, std::size_t size) const {
        std::string unit(word.substr(at, size));
        if (at > 0) unit.insert(0, training_.prefix);
        if (at + size == word.size()) unit += training_.suffix;
        return unit;
    }

    void add(std::string token) {
        if (ids_.emplace(token, static_cast<std::uint32_t>(tokens_.size())).second) {
            tokens_.push_back(std::move(token));
        }
    }

    void choose_characters(const WordCounts& counts) {
        std::map<std::string, std::uint64_t, std::less<>> found;
        counts.each([&](std::string_view word, std::uint64_t count) {
            for (std::size_t at = 0; at < word.size(); ++units_) {
                const std::size_t size = character_length(word, at);
                const std::string_view unit = word.substr(at, size);
                const auto place = found.find(unit);
                (place == found.end() ? found[std::string(unit)] : place->second) += count;
                at += size;
            }
        });
        for (const std::string& character : training_.initial_alphabet) {
            if (character.empty() || character_length(character, 0) != character.size()) {
                throw std::invalid_argument("initial_alphabet has single characters, not " +
                                            quoted(character));
            }
            found[character] = std::numeric_limits<std::uint64_t>::max();  // never left out
        }
        std::vector<std::pair<std::string, std::uint64_t>> kept(found.begin(), found.end());
        const std::size_t limit = std::max(training_.limit_alphabet.value_or(kept.size()),
                                           training_.initial_alphabet.size());
        if (kept.size() > limit) {  // in the order of their bytes, so equal counts are decided
            std::stable_sort(kept.begin(), kept.end(),
                             [](const auto& a, const auto& b) { return a.second > b.second; });
            kept.resize(limit);
            std::sort(kept.begin(), kept.end());
        }
        for (const auto& character : kept) add(character.first);
        if (undecorated()) return;
        std::map<std::string, bool> forms;  // of characters with prefix or suffix
        counts.each([&](std::string_view word, std::uint64_t) {
            for (std::size_t at = 0; at < word.size();) {
                const std::size_t size = character_length(word, at);
                if (ids_.count(std::string(word.substr(at, size)))) {
                    forms.emplace(decorated(word, at, size), true);
                }
                at += size;
            }
        });
        for (const auto& form : forms) add(form.first);
    }

    const BpeTraining& training_;
    std::vector<std::string> tokens_;
    std::unordered_map<std::string, std::uint32_t> ids_;
    std::size_t units_ = 0;
};

template <class Symbol>
void learn(WordCounts& counts, const BpeTraining& training, Units& units, std::size_t most,
           const Progress& progress, LearnedBpe& learned) {
    std::vector<std::string>& tokens = units.tokens();
    const std::size_t first = tokens.size();
    BpeLearner<Symbol> learner(first, most, units.count(), counts.size());
    std::uint64_t all = 0;
    counts.drain([&](std::string_view word, std::uint64_t count) {
        if (count > (std::numeric_limits<std::uint64_t>::max() / 2 - all) / word.size()) {
            throw std::invalid_argument("the counts of the words are too large: they pass 2^63");
        }
        all += count * word.size();
        learner.begin_word(count);
        units.each_unit(word, [&](std::uint32_t unit) {
            if (unit == Units::kSpecial) {
                learner.begin_word(count);  // what stands beside the gap is no pair
            } else {
                learner.add_unit(unit);
            }
        });
    });
    learner.end_words();

    const auto join = [&](std::uint32_t left, std::uint32_t right) {
        std::string token = tokens[left];
        const std::string& end = tokens[right];
        const bool begins = end.compare(0, training.prefix.size(), training.prefix) == 0;
        token.append(end, begins ? training.prefix.size() : 0);
        // No text gives a special token. Beside these only characters that are written like the
        // prefix or suffix can give bytes that are a token already.
        const auto next = static_cast<std::uint32_t>(tokens.size());
        if (!units.ids().emplace(token, next).second) return false;
        learned.merges.emplace_back(tokens[left], tokens[right]);
        tokens.push_back(std::move(token));
        return true;
    };
    const std::size_t longest =
        training.max_token_length.value_or(std::numeric_limits<std::size_t>::max());
    learner.learn(most, std::max<std::uint64_t>(training.min_frequency, 1), longest, join,
                  [&](std::size_t now) {
                      progress(static_cast<std::int64_t>(now - first),
                               static_cast<std::int64_t>(most - first));
                  });
}

}  // namespace

LearnedBpe train_bpe(WordCounts& counts, const BpeTraining& training, const Progress& progress) {
    if (counts.size() == 0) throw std::invalid_argument("the text has no words to learn from");
    Units units(counts, training);
    const std::size_t special = training.special_tokens.size();
    const std::size_t first = units.tokens().size();
    if (training.vocabulary_size < static_cast<std::int64_t>(special + first)) {
        throw std::invalid_argument("a vocabulary of " + std::to_string(training.vocabulary_size) +
                                    " is too small for " + std::to_string(first) +
                                    (training.byte_level ? " bytes" : " characters") + " and " +
                                    std::to_string(special) + " special tokens");
    }
    // A merge removes at least one unit, so there can be no more of them.
    const std::size_t most = std::min(static_cast<std::size_t>(training.vocabulary_size) - special,
                                      first + units.count());
    LearnedBpe learned;
    if (most < BpeLearner<std::uint16_t>::kHole) {
        learn<std::uint16_t>(counts, training, units, most, progress, learned);
    } else {
        learn<std::uint32_t>(counts, training, units, most, progress, learned);
    }
    std::vector<std::string>& all = learned.vocabulary = std::move(units.tokens());
    all.insert(training.byte_level ? all.end() : all.begin(), training.special_tokens.begin(),
               training.special_tokens.end());
    return learned;
}

}  // namespace byhand::text
