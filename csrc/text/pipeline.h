// The chain from a text to token ids, and what a call of it needs.
#pragma once

#include <mutex>

#include "text/counts.h"
#include "text/pipeline_added.h"
#include "text/text.h"
#include "text/threads.h"

namespace byhand::text {

// Gets what is found in a text, in order.
class Sink {
  public:
    virtual ~Sink() = default;
    virtual void token(Id id, Span original) = 0;
    // The words of a normalised piece. `origin` has a span of the original for each of its bytes;
    // null: byte i of the piece is byte base + i of the original.
    virtual void words(std::string_view piece, const std::vector<Span>& words, const Span* origin,
                       std::int64_t base) = 0;
};

// Where a text may be divided so that its parts have the same ids as the whole. Before a space,
// that is between two letters; before 、 。 and ，, that is behind a letter; before the end of a
// line, that is behind a letter or digit.
enum class Cuts { none, spaces, spaces_and_stops };
bool is_cut(std::string_view text, std::size_t at, Cuts cuts);

class Pipeline {
  public:
    struct Parts {
        Normalisers normalisers;
        PreTokenizers pretokenizers;
        std::shared_ptr<Model> model;  // null: words can be found, but not encoded
        std::vector<AddedToken> added;
        // Applied to each piece between added tokens, after `normalisers`.
        Normalisers piece_normalisers;
        Cuts cuts = Cuts::none;
    };
    explicit Pipeline(Parts parts);

    // The ids of a text, and with offsets the bytes of the text that each token stands for. `tick`,
    // here and below, is called about every megabyte.
    void encode(std::string_view text, const Allowed& allowed, Tokens& out, const Tick& tick) const;
    // The ids of many texts on `threads` threads, joined; `rows` gets where each text's begin, and
    // the end.
    void encode_batch(const std::vector<std::string_view>& texts, const Allowed& allowed,
                      int threads, std::vector<Id>& ids, std::vector<std::int64_t>& rows,
                      const Tick& tick) const;
    // Counts the words of texts on `threads` threads. Added tokens are no words.
    void count(const std::vector<std::string_view>& texts, WordCounts& counts, int threads,
               const Tick& tick) const;
    // The tokens' bytes one after the other. Throws std::invalid_argument.
    std::string decode(const std::int64_t* ids, std::size_t count) const;

    // Hands the words of a text to a sink. `tracked`: with the spans of the original text.
    void walk(std::string_view text, const Allowed& allowed, bool tracked, Sink& sink) const;

    // The end of a part of `text` that begins at `begin` and has about `size` bytes; the end of the
    // text if it cannot be divided.
    static std::size_t cut(std::string_view text, std::size_t begin, std::size_t size, Cuts cuts);
    Cuts cuts() const { return parts_.cuts; }
    std::int64_t size() const { return size_; }

  private:
    void normalise_and_walk(std::string_view text, std::int64_t base, bool first,
                            const Allowed& allowed, bool tracked, Sink& sink) const;
    void piece(std::string_view text, const Span* origin, std::int64_t base, bool first,
               bool tracked, Sink& sink) const;
    void divide(std::string_view text, const Span* origin, std::int64_t base, Sink& sink) const;

    class Borrowed;  // work space of the model, taken from scratches_ and put back
    Parts parts_;
    AddedTokens raw_, normalised_;
    std::vector<std::pair<Id, std::string>> contents_;  // of the added tokens, ordered by id
    std::int64_t size_ = 0;
    bool depends_on_start_ = false;
    mutable std::mutex lock_;
    mutable std::vector<std::unique_ptr<Model::Scratch>> scratches_;
};

}  // namespace byhand::text
