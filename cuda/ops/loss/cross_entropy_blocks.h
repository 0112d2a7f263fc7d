// Cross-entropy of consecutive blocks of rows, whose logits are replaced by their gradient.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

struct CrossEntropyCall {
    const char* name;
    const int64_t* targets;
    int64_t rows, classes;  // rows of all blocks together
    int64_t ignore_index;
    double smoothing;
    bool mean;
    const float* dloss;  // in device memory
    Stream stream;
};

class CrossEntropyBlocks {
  public:
    // Counts the kept targets of all rows: the gradient of each may depend on them.
    explicit CrossEntropyBlocks(const CrossEntropyCall& call);
    // Replaces the logits of rows begin .. begin + rows - 1 by their gradient; lse may be null.
    template <class T>
    void differentiate(T* logits, float* lse, int64_t begin, int64_t rows);
    // Writes the loss of all rows so far.
    void finish(float* loss, float* count);

  private:
    CrossEntropyCall call_;
    int slot_, counters_ = 0, teams_ = 0;  // teams_: how many have stored a partial loss
};

}  // namespace byhand
