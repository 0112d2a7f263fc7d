// The words of a word-level tokenizer: see word_pattern.cpp.
#pragma once

#include <vector>

#include "text/text.h"

namespace byhand::text {

class WordPattern : public PreTokenizer {
  public:
    // With `spaces`, the words cover the text: each has the space before it.
    explicit WordPattern(bool spaces) : spaces_(spaces) {}
    void split(std::string_view text, Span piece, std::vector<Span>& words) const override;

  private:
    bool spaces_;
};

}  // namespace byhand::text
