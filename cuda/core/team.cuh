// A team is a set of threads that work on one row together: a warp, a part of a warp, or a block.
// Kernels are templates of the team. Every reduction has a fixed order, so the same inputs give the
// same bits.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

// The most bytes of shared memory that a team itself uses, which a launch must leave free.
constexpr int kTeamShared = 1024;

struct Add {
    template <class V>
    BYHAND_DEVICE V operator()(V a, V b) const {
        return a + b;
    }
    static BYHAND_DEVICE float identity() { return 0.0f; }
};
struct Max {
    BYHAND_DEVICE float operator()(float a, float b) const { return fmaxf(a, b); }
    static BYHAND_DEVICE float identity() { return -infinity(); }
};

// A butterfly reduction: every lane gets the same bits, because a + b and b + a are equal.
template <int kLanes = kWarp, class Op, class V>
BYHAND_DEVICE V reduce_warp(V value, Op op) {
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
        value = op(value, shuffle_xor(value, lanes));
    }
    return value;
}

// Blocks of (kLanes, kTeams) threads, kLanes a power of two of at most 32: neighbouring lanes form
// a team, and warps do not wait for each other.
template <int kLanes>
struct LaneTeam {
    static constexpr int kThreads = 128, kBlocks = 1;  // for __launch_bounds__
    static constexpr int kTeams = kThreads / kLanes;

    BYHAND_DEVICE int rank() const { return static_cast<int>(threadIdx.x); }
    BYHAND_DEVICE int size() const { return kLanes; }
    BYHAND_DEVICE int place() const { return static_cast<int>(threadIdx.y); }

    BYHAND_DEVICE float sum(float v) { return reduce_warp<kLanes>(v, Add{}); }
    BYHAND_DEVICE float max(float v) { return reduce_warp<kLanes>(v, Max{}); }
    BYHAND_DEVICE void sum(float& a, float& b) { a = sum(a), b = sum(b); }
};
using WarpTeam = LaneTeam<kWarp>;

// Blocks of (threads, 1), threads a multiple of 32; the block is the team. At most 64 registers per
// thread, so that a multiprocessor can hold 1024 threads.
template <int kThreads_>
struct BlockTeam {
    static constexpr int kTeams = 1;
    static constexpr int kThreads = kThreads_, kBlocks = 1024 / kThreads_;

    BYHAND_DEVICE int rank() const { return static_cast<int>(threadIdx.x); }
    BYHAND_DEVICE int size() const { return static_cast<int>(blockDim.x); }
    BYHAND_DEVICE int place() const { return 0; }

    BYHAND_DEVICE float sum(float v) { return reduce(v, v, Add{}, false); }
    BYHAND_DEVICE float max(float v) { return reduce(v, v, Max{}, false); }
    BYHAND_DEVICE void sum(float& a, float& b) { a = reduce(a, b, Add{}, true); }

  private:
    // One barrier per reduction, with two alternating buffers: a thread that writes a buffer again
    // has passed the barrier of the other one, which all threads reach only after reading this one.
    template <class Op>
    BYHAND_DEVICE float reduce(float a, float& b, Op op, bool both) {
        BYHAND_SHARED(float[2][2][kThreads / kWarp], partial);
        const int warp = rank() / kWarp, lane = rank() % kWarp, warps = size() / kWarp;
        a = reduce_warp(a, op);
        if (both) b = reduce_warp(b, op);
        if (lane == 0) {
            partial[phase_][0][warp] = a;
            if (both) partial[phase_][1][warp] = b;
        }
        sync_block();
        a = reduce_warp(lane < warps ? partial[phase_][0][lane] : Op::identity(), op);
        if (both) b = reduce_warp(lane < warps ? partial[phase_][1][lane] : Op::identity(), op);
        phase_ ^= 1;
        return a;
    }

    int phase_ = 0;
};

// The sum over a block of (kThreads, 1) threads in a fixed order; thread 0 gets it.
template <int kThreads>
BYHAND_DEVICE double sum_block(double value) {
    BYHAND_SHARED(double[kThreads / kWarp], shared);
    const int rank = static_cast<int>(threadIdx.x);
    value = reduce_warp(value, Add{});
    sync_block();  // thread 0 has read the previous sums
    if (rank % kWarp == 0) shared[rank / kWarp] = value;
    sync_block();
    if (rank != 0) return 0.0;
    for (int w = 1; w < kThreads / kWarp; ++w) value += shared[w];
    return value;
}

// The sum of f(i) over first <= i < last, for each of the 32 columns of a block of (32, kSlices)
// threads: each thread sums a range of consecutive i in order, then one thread adds these sums in
// order. The threads with threadIdx.y == 0 return the result.
template <int kSlices, class F>
BYHAND_DEVICE float sum_in_slices(int64_t first, int64_t last, F&& f) {
    BYHAND_SHARED(float[kSlices][kWarp + 1], shares);
    const int64_t each = (last - first + kSlices - 1) / kSlices;
    const int64_t from = first + threadIdx.y * each, to = min(last, from + each);
    float sum = 0.0f;
#pragma unroll 4
    for (int64_t i = from; i < to; ++i) sum += f(i);
    shares[threadIdx.y][threadIdx.x] = sum;
    sync_block();
    if (threadIdx.y == 0) {
        for (int s = 1; s < kSlices; ++s) sum += shares[s][threadIdx.x];
    }
    return sum;
}

// f(row, here) for each row of this team; `here` is false for a row past the last one. All teams of
// a block make the same number of rounds, so that warps do not diverge at shuffles.
template <class Team, class F>
BYHAND_DEVICE void for_rows(const Team& team, int64_t rows, F&& f) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * Team::kTeams;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * Team::kTeams; first < rows;
         first += step) {
        const int64_t row = first + team.place();
        f(row, Team::kTeams == 1 || row < rows);
    }
}

}  // namespace byhand
