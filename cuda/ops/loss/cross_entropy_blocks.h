// Cross-entropy of rows that come one block after the other, each gradient in place of its logits.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

struct CrossEntropyCall {
    const char* name;
    const int64_t* targets;
    int64_t rows, classes;  // of all blocks together
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
    // The gradient of rows begin .. begin + rows - 1 in place of their logits; lse may be null.
    template <class T>
    void differentiate(T* logits, float* lse, int64_t begin, int64_t rows);
    // The loss of all rows so far.
    void finish(float* loss, float* count);

  private:
    CrossEntropyCall call_;
    int slot_, counters_ = 0, teams_ = 0;  // teams_: how many have left a partial loss
};

}  // namespace byhand
