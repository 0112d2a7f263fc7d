#include "text/unicode.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "text/unicode_data.h"

namespace byhand::text {
namespace {

// Reads the numbers of unicode_data.h.
class Numbers {
  public:
    explicit Numbers(std::string_view digits) : digits_(digits) {}
    bool more() const { return at_ < digits_.size(); }
    std::uint32_t next() {
        std::uint32_t value = 0;
        for (int shift = 0;; shift += 5) {
            const char c = digits_[at_++] == '~' ? '\\' : digits_[at_ - 1];
            const auto digit = static_cast<std::uint32_t>(c - 35);
            value |= (digit & 31) << shift;
            if (digit < 32) return value;
        }
    }
    std::int64_t next_signed() {
        const std::uint32_t value = next();
        return value & 1 ? -static_cast<std::int64_t>(value / 2) - 1 : value / 2;
    }

  private:
    std::string_view digits_;
    std::size_t at_ = 0;
};

template <class Use>  // use(first code point, length, value)
void read_runs(std::string_view digits, Use use) {
    char32_t code = 0;
    for (Numbers in(digits); in.more();) {
        const std::uint32_t length = in.next();
        use(code, length, in.next());
        code += length;
    }
}

template <class Use>  // use(code point, flags, target)
void read_mappings(std::string_view digits, Use use) {
    char32_t code = 0;
    std::u32string target;
    for (Numbers in(digits); in.more();) {
        code += in.next();
        const std::uint32_t word = in.next();
        target.clear();
        auto last = static_cast<std::int64_t>(code);
        for (std::uint32_t i = 0; i < word / 4; ++i) {
            target.push_back(static_cast<char32_t>(last += in.next_signed()));
        }
        use(code, word % 4, target);
    }
}

bool is_space(char32_t code) {
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

// Other_Alphabetic beyond marks (circled and squared letters), and Join_Control.
bool is_word_by_exception(char32_t code) {
    return (code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
           (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189) ||
           code == 0x200C || code == 0x200D;
}

std::uint16_t classes_of(char32_t code, Category category) {
    using C = Category;
    const auto between = [&](C low, C high) { return category >= low && category <= high; };
    const bool letter = between(C::Lu, C::Lo), mark = between(C::Mn, C::Me);
    const bool number = between(C::Nd, C::No), caseless = category == C::Lm || category == C::Lo;
    unsigned found = 0;
    if (letter) found |= kLetter;
    if (number) found |= kNumber;
    if (is_space(code)) found |= kSpace;
    if (code == '\r' || code == '\n') found |= kNewline;
    if (mark) found |= kMark;
    if (category == C::Mn) found |= kNonspacing;
    if (caseless || mark || category == C::Lu || category == C::Lt) found |= kUpper;
    if (caseless || mark || category == C::Ll) found |= kLower;
    if (letter || mark || category == C::Nd || category == C::Nl || category == C::Pc ||
        is_word_by_exception(code)) {
        found |= kWord;
    }
    if (between(C::Pc, C::Po)) found |= kPunctuation;
    if (code > ' ' && code < 127 && !letter && !number) found |= kAsciiPunctuation;
    if (category == C::Cc || category == C::Cf || category == C::Co) found |= kControl;
    if (!(found & (kLetter | kNumber | kSpace))) found |= kOther;
    return static_cast<std::uint16_t>(found);
}

// Hangul syllables are composed by arithmetic (Unicode standard, section 3.12).
constexpr char32_t kS = 0xAC00, kL = 0x1100, kV = 0x1161, kT = 0x11A7;
constexpr char32_t kLs = 19, kVs = 21, kTs = 28, kSs = kLs * kVs * kTs;

}  // namespace

std::size_t ascii_prefix(std::string_view bytes, std::size_t at) {
    std::size_t end = at;
    for (std::uint64_t block; bytes.size() - end >= 8; end += 8) {
        std::memcpy(&block, bytes.data() + end, 8);
        if (block & 0x8080808080808080u) break;
    }
    return end - at;
}

template <class Value>
void CodeTable<Value>::assign(const std::vector<Value>& all) {
    std::map<std::vector<Value>, std::uint16_t> known;
    values_.clear();
    const Value* const first = all.data();
    for (std::size_t block = 0; block < blocks_.size(); ++block) {
        const Value* const begin = first + block * 128;
        if (block > 0 && std::equal(begin, begin + 128, begin - 128)) {  // long runs
            blocks_[block] = blocks_[block - 1];
            continue;
        }
        const std::vector<Value> values(begin, begin + 128);
        const auto [found, is_new] =
            known.emplace(values, static_cast<std::uint16_t>(known.size()));
        if (is_new) values_.insert(values_.end(), values.begin(), values.end());
        blocks_[block] = found->second;
    }
}

const Unicode& Unicode::tables() {
    static const Unicode made;
    return made;
}

Unicode::Unicode() {
    read_categories();
    read_runs(kCombiningRuns, [&](char32_t code, std::uint32_t length, std::uint32_t value) {
        if (value == 0) return;
        for (std::uint32_t i = 0; i < length; ++i) {
            combining_.at(code + i) = static_cast<std::uint8_t>(value);
        }
    });
    const std::vector<char32_t> decomposing = read_decompositions();
    read_mappings(kLowerCases, [&](char32_t code, std::uint32_t, const std::u32string& target) {
        lower_.at(code) = store(target);
    });
    find_unstable(decomposing);
}

void Unicode::read_categories() {
    std::vector<Category> categories(0x110000);
    std::vector<std::uint16_t> classes(0x110000);
    read_runs(kCategoryRuns, [&](char32_t code, std::uint32_t length, std::uint32_t value) {
        const auto category = static_cast<Category>(value);
        std::fill_n(categories.begin() + code, length, category);
        std::fill_n(classes.begin() + code, length, classes_of(code, category));
        for (char32_t c = code; c < code + length && c < 0x20000; ++c) {  // some are exceptions
            classes[c] = classes_of(c, category);
        }
    });
    categories_.assign(categories);
    classes_.assign(classes);
}

std::vector<char32_t> Unicode::read_decompositions() {
    std::vector<char32_t> decomposing;
    struct Step {
        bool compatibility;
        std::u32string target;
    };
    std::map<char32_t, Step> steps;
    read_mappings(
        kDecompositions, [&](char32_t code, std::uint32_t flags, const std::u32string& target) {
            steps[code] = {(flags & 1) != 0, target};
            if (flags & 2) {
                compositions_.push_back({std::uint64_t{target[0]} << 32 | target[1], code});
            }
        });
    std::sort(compositions_.begin(), compositions_.end());
    const auto expand = [&](const auto& self, char32_t code, bool compatibility,
                            std::u32string& to) -> void {
        const auto step = steps.find(code);
        if (step == steps.end() || (step->second.compatibility && !compatibility)) {
            to.push_back(code);
            return;
        }
        for (char32_t part : step->second.target) self(self, part, compatibility, to);
    };
    for (const auto& [code, step] : steps) {
        decomposing.push_back(code);
        std::u32string canonical, compatible;
        expand(expand, code, false, canonical);
        expand(expand, code, true, compatible);
        if (!step.compatibility) canonical_.at(code) = store(canonical);
        compatible_.at(code) =
            canonical == compatible && !step.compatibility ? canonical_[code] : store(compatible);
    }
    return decomposing;
}

void Unicode::find_unstable(const std::vector<char32_t>& decomposing) {
    const auto mark = [&](char32_t code, std::initializer_list<Form> forms) {
        for (Form form : forms) {
            unstable_.at(code) |= static_cast<std::uint8_t>(1 << static_cast<int>(form));
        }
    };
    read_runs(kCombiningRuns, [&](char32_t code, std::uint32_t length, std::uint32_t value) {
        for (char32_t c = code; value != 0 && c < code + length; ++c) {
            mark(c, {Form::nfc, Form::nfd, Form::nfkc, Form::nfkd});
        }
    });
    for (char32_t c = kS; c < kS + kSs; ++c) mark(c, {Form::nfd, Form::nfkd});
    // Composition changes what may be the second of a pair, and what does not compose again.
    for (char32_t c = kV; c < kT + kTs; ++c) mark(c, {Form::nfc, Form::nfkc});
    std::vector<bool> composes(0x110000);
    for (const auto& [pair, code] : compositions_) {
        composes[code] = true;
        mark(static_cast<char32_t>(pair & 0xFFFFFFFF), {Form::nfc, Form::nfkc});
    }
    for (char32_t code : decomposing) {
        const bool canonical = canonical_[code] != 0;
        mark(code, {Form::nfkd});
        if (canonical) mark(code, {Form::nfd});
        if (canonical && !composes[code]) mark(code, {Form::nfc});
        if (!composes[code] || compatible_[code] != canonical_[code]) mark(code, {Form::nfkc});
    }
}

std::uint16_t Unicode::store(std::u32string_view text) {
    entries_.push_back(
        {static_cast<std::uint32_t>(pool_.size()), static_cast<std::uint32_t>(text.size())});
    pool_.append(text);
    return static_cast<std::uint16_t>(entries_.size() - 1);
}

void Unicode::decompose(char32_t code, bool compatibility, std::u32string& to) const {
    if (code >= kS && code < kS + kSs) {
        const char32_t index = code - kS;
        to.push_back(kL + index / (kVs * kTs));
        to.push_back(kV + index % (kVs * kTs) / kTs);
        if (index % kTs != 0) to.push_back(kT + index % kTs);
        return;
    }
    const std::uint16_t entry = compatibility ? compatible_[code] : canonical_[code];
    if (entry == 0) {
        to.push_back(code);
    } else {
        to.append(view(entry));
    }
}

char32_t Unicode::compose(char32_t first, char32_t second) const {
    if (first >= kL && first < kL + kLs && second >= kV && second < kV + kVs) {
        return kS + ((first - kL) * kVs + (second - kV)) * kTs;
    }
    if (first >= kS && first < kS + kSs && (first - kS) % kTs == 0 && second > kT &&
        second < kT + kTs) {
        return first + (second - kT);
    }
    const std::uint64_t pair = std::uint64_t{first} << 32 | second;
    const auto found =
        std::lower_bound(compositions_.begin(), compositions_.end(), std::pair{pair, char32_t{0}});
    return found != compositions_.end() && found->first == pair ? found->second : 0;
}

}  // namespace byhand::text
