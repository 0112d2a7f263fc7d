// Kernels with a bug each, and the same kernels without it. test_planted.py knows which tool has to
// find which bug. A program:
//
//   planted NAME...     runs these kernels without their bugs; with it where NAME begins with "-"
//
// and prints a line for each: what came out and what should have, or the error.
#include <cstdio>
#include <functional>
#include <map>
#include <vector>

#include "core/cuda.cuh"

using namespace byhand;

namespace {

constexpr int kThreads = 128;

BYHAND_DEVICE int rank_of() { return static_cast<int>(threadIdx.x); }
BYHAND_DEVICE int lane_of() { return rank_of() % kWarp; }
BYHAND_DEVICE int warp_of() { return rank_of() / kWarp; }

// --- What is wrong with the numbers ------------------------------------------------------------

template <bool bug>
__global__ void no_barrier(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    v[rank_of()] = static_cast<float>(rank_of());
    if (!bug) sync_block();
    y[rank_of()] = v[kThreads - 1 - rank_of()];
}

// A buffer that one warp fills again while the others may still read it.
template <bool bug>
__global__ void no_barrier_at_the_end_of_the_loop(float* y) {
    BYHAND_SHARED(float[kWarp], buffer);
    float sum = 0.0f;
    for (int round = 0; round < 4; ++round) {
        if (warp_of() == 0) buffer[lane_of()] = static_cast<float>(round);
        sync_block();
        sum += buffer[lane_of()];
        if (warp_of() == 0) sum = shuffle_xor(shuffle_xor(sum, 1), 1);
        if (!bug) sync_block();
    }
    y[rank_of()] = sum;
}

template <bool bug>
BYHAND_DEVICE float sum_block(float v) {
    BYHAND_SHARED(float[kThreads / kWarp], partial);
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) v += shuffle_xor(v, lanes);
    if (lane_of() == 0) partial[warp_of()] = v;
    sync_block();
    v = 0.0f;
    for (int w = 0; w < kThreads / kWarp; ++w) v += partial[w];
    if (!bug) sync_block();  // before the next sum goes the same way
    return v;
}

template <bool bug>
__global__ void write_after_read(float* y) {
    const float sum = sum_block<bug>(1.0f);
    y[rank_of()] = sum + sum_block<bug>(2.0f);
}

template <bool bug>
__global__ void no_warp_barrier(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    v[rank_of()] = static_cast<float>(rank_of());
    if (!bug) sync_warp();
    y[rank_of()] = v[rank_of() ^ 1];
}

template <bool bug>
__global__ void waits_one_group_short(float* y, const float* x) {
    BYHAND_SHARED(uint4[2][kThreads], v);
    for (int stage = 0; stage < 2; ++stage) {
        copy_async16(&v[stage][rank_of()], x + 4 * rank_of());
        copy_async_commit();
    }
    copy_async_wait<bug ? 1 : 0>();
    y[rank_of()] = float_of(v[1][rank_of()].y);
    copy_async_wait<0>();
}

// A copy into memory that a slower warp still reads.
template <bool bug>
__global__ void copies_too_early(float* y, const float* x) {
    BYHAND_SHARED(uint4[kThreads], v);
    v[rank_of()] = {bits_of(1.0f), 0, 0, 0};
    sync_block();
    const float before = float_of(v[(rank_of() + kWarp) % kThreads].x);
    if (!bug) sync_block();
    copy_async16(&v[rank_of()], x + 4 * rank_of());
    copy_async_commit();
    if (bug) sync_block();
    copy_async_wait<0>();
    y[rank_of()] = before + float_of(v[rank_of()].y);
}

template <bool bug>
__global__ void reads_what_nobody_wrote(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    if (!bug || rank_of() > 0) v[rank_of()] = 0.5f;
    sync_block();
    y[rank_of()] = v[kThreads - 1 - rank_of()];
}

template <bool bug>
__global__ void blocks_write_the_same_place(float* y) {
    if (!bug && blockIdx.x > 0) return;
    y[rank_of()] = static_cast<float>(blockIdx.x);
}

template <bool bug>
__global__ void counts_without_atomics(float* y) {
    if (bug) {
        y[0] = y[0] + 1.0f;
    } else {
        atomic_add(y, 1.0f);
    }
}

// --- What CUDA leaves undefined ----------------------------------------------------------------

template <bool bug>
__global__ void early_return(float* y) {
    if (bug && rank_of() >= 100) return;
    sync_block();
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void two_barriers(float* y) {
    if (bug && rank_of() < 64) {
        sync_block();
    } else {
        sync_block();
    }
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void half_a_warp_shuffles(float* y) {
    float v = 1.0f;
    if (!bug || lane_of() < 16) v = shuffle_xor(v, 1);
    sync_block();
    y[rank_of()] = v;
}

template <bool bug>
__global__ void half_a_warp_votes(float* y) {
    float v = 1.0f;
    if (bug && lane_of() < 16) {
        v = lanes_where(true) != 0 ? 1.0f : 0.0f;
    } else {
        v = shuffle_xor(v, 1);
    }
    y[rank_of()] = v;
}

template <bool bug>
__global__ void lane_outside_the_mask(float* y) {
    const unsigned half = lane_of() < 16 ? 0x0000ffffu : 0xffff0000u;
    y[rank_of()] = shuffle_xor(1.0f, bug ? 16 : 8, half);
}

template <bool bug>
__global__ void not_in_its_own_mask(float* y) {
    sync_warp(bug ? 0x7fffffffu : kWholeWarp);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void barriers_of_different_size(float* y) {
    sync_named(1, bug && warp_of() == 2 ? 64 : kThreads);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void ends_with_open_copies(float* y, const float* x) {
    BYHAND_SHARED(uint4[kThreads], v);
    copy_async16(&v[rank_of()], x);
    copy_async_commit();
    if (!bug) copy_async_wait<0>();
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void misaligned_load(float* y, const float* x) {
    y[rank_of()] = float_of(load16(x + (bug ? 1 : 4)).x) * 0.0f + 1.0f;
}

template <bool bug>
__global__ void misaligned_shared_store(float* y) {
    struct alignas(bug ? 4 : 16) Row {
        float v[4];
    };
    BYHAND_SHARED(Row[kThreads], rows);
    store16(rows[rank_of()].v, {bits_of(1.0f), 0, 0, 0});
    y[rank_of()] = rows[rank_of()].v[0];
}

template <bool bug>
__global__ void misaligned_copy(float* y, const float* x) {
    BYHAND_SHARED(uint4[kThreads], v);
    copy_async16(&v[rank_of()], x + (bug ? 2 : 4));
    copy_async_commit();
    copy_async_wait<0>();
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void copies_to_global_memory(float* y, const float* x) {
    BYHAND_SHARED(uint4[kThreads], v);
    copy_async16(bug ? static_cast<void*>(y) : &v[rank_of()], x);
    copy_async_commit();
    copy_async_wait<0>();
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void misaligned_ldmatrix(float* y) {
    constexpr int kPad = bug ? 4 : 8;
    struct alignas(16) Matrix {
        unsigned short v[8][8 + kPad];
    };
    BYHAND_SHARED(Matrix, m);
    if (rank_of() < 8) {
        for (unsigned short& v : m.v[rank_of()]) v = 0;
    }
    sync_block();
    unsigned r[2];
    ldmatrix_x2(r, m.v[lane_of() % 8]);
    y[rank_of()] = static_cast<float>(r[0] + 1);
}

template <bool bug>
__global__ void too_much_static_memory(float* y) {
    BYHAND_SHARED(float[bug ? 12289 : 12288], v);
    v[rank_of()] = 1.0f;
    y[rank_of()] = v[rank_of()];
}

template <bool bug>
__global__ void no_dynamic_memory(float* y) {
    BYHAND_DYNAMIC_SHARED(memory);
    memory[rank_of()] = 1;
    y[rank_of()] = memory[rank_of()];
}

__global__ void ones_by_the_first_block(float* y) {
    if (blockIdx.y == 0 && threadIdx.y == 0) y[rank_of()] = 1.0f;
}

// --- Out of bounds -----------------------------------------------------------------------------

template <bool bug>
__global__ void writes_beyond_shared(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    v[rank_of() + (bug ? 1 : 0)] = 1.0f;
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void reads_beyond_shared(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    v[rank_of()] = 1.0f;
    sync_block();
    y[rank_of()] = v[rank_of() + (bug ? 1 : 0)] == 1.0f ? 1.0f : 2.0f;
}

template <bool bug>
__global__ void reads_far_beyond_shared(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    const float* const p = v + (bug ? 8 : 0);
    v[rank_of()] = 1.0f;
    sync_block();
    y[rank_of()] = p[rank_of()] == 1.0f ? 1.0f : 2.0f;
}

template <bool bug>
__global__ void reads_beyond_global(float* y, const float* x) {
    y[rank_of()] = x[4 * kThreads - 1 + (bug ? rank_of() / (kThreads - 1) : 0)] * 0.0f + 1.0f;
}

template <bool bug>
__global__ void writes_beyond_global(float* y) {
    y[rank_of() + (bug ? 1 : 0)] = 1.0f;
}

template <bool bug>
__global__ void shifts_too_far(float* y) {
    const int bits = rank_of() - rank_of() + (bug ? 32 : 31);
    y[rank_of()] = static_cast<float>((1u << bits) != 0);
}

// --- The program -------------------------------------------------------------------------------

struct Case {
    std::function<void(float* y, const float* x)> run[2];  // without the bug, with it
    std::vector<float> expected;
};

std::map<std::string, Case> all_cases() {
    std::map<std::string, Case> cases;
    const auto every = [](auto f) {
        std::vector<float> values(kThreads);
        for (int i = 0; i < kThreads; ++i) values[i] = f(i);
        return values;
    };
    const auto ones = every([](int) { return 1.0f; });
    const auto add = [&](const char* name, std::vector<float> expected, auto right, auto wrong,
                         int blocks = 1) {
        const auto runner = [=](auto kernel) {
            return [=](float* y, const float* x) {
                const dim3 grid(static_cast<unsigned>(blocks));
                if constexpr (std::is_invocable_v<decltype(kernel), float*, const float*>) {
                    launch(name, kernel, grid, dim3(kThreads), Stream{}, y, x);
                } else {
                    launch(name, kernel, grid, dim3(kThreads), Stream{}, y);
                }
            };
        };
        cases[name] = {{runner(right), runner(wrong)}, std::move(expected)};
    };
#define ADD(name, expected, ...) add(#name, expected, name<false>, name<true>, ##__VA_ARGS__)
    ADD(no_barrier, every([](int i) { return static_cast<float>(kThreads - 1 - i); }));
    ADD(no_barrier_at_the_end_of_the_loop, every([](int) { return 6.0f; }));
    ADD(write_after_read, every([](int) { return 3.0f * kThreads; }));
    ADD(no_warp_barrier, every([](int i) { return static_cast<float>(i ^ 1); }));
    ADD(waits_one_group_short, every([](int i) { return static_cast<float>(4 * i + 1); }));
    ADD(copies_too_early, every([](int i) { return static_cast<float>(4 * i + 2); }));
    ADD(reads_what_nobody_wrote, every([](int) { return 0.5f; }));
    ADD(blocks_write_the_same_place, every([](int) { return 0.0f; }), 3);
    ADD(counts_without_atomics, every([](int i) { return i == 0 ? 2.0f * kThreads : 0.0f; }), 2);
    ADD(early_return, ones);
    ADD(two_barriers, ones);
    ADD(half_a_warp_shuffles, ones);
    ADD(half_a_warp_votes, ones);
    ADD(lane_outside_the_mask, ones);
    ADD(not_in_its_own_mask, ones);
    ADD(barriers_of_different_size, ones);
    ADD(ends_with_open_copies, ones);
    ADD(misaligned_load, ones);
    ADD(misaligned_shared_store, ones);
    ADD(misaligned_copy, ones);
    ADD(copies_to_global_memory, ones);
    ADD(misaligned_ldmatrix, ones);
    ADD(too_much_static_memory, ones);
    ADD(writes_beyond_shared, ones);
    ADD(reads_beyond_shared, ones);
    ADD(reads_far_beyond_shared, ones);
    ADD(reads_beyond_global, ones);
    ADD(writes_beyond_global, ones);
    ADD(shifts_too_far, ones);
#undef ADD
    const auto limit = [&](const char* name, auto kernel, dim3 grid, dim3 block, int bytes,
                           dim3 wrong_grid, dim3 wrong_block, int wrong_bytes) {
        const auto runner = [=](dim3 g, dim3 b, int n) {
            return
                [=](float* y, const float*) { launch_shared(name, kernel, g, b, n, Stream{}, y); };
        };
        cases[name] = {{runner(grid, block, bytes), runner(wrong_grid, wrong_block, wrong_bytes)},
                       ones};
    };
    const dim3 one(1), some(kThreads);
    limit("no_dynamic_memory", no_dynamic_memory<true>, one, some, kThreads, one, some, 0);
    limit("too_much_dynamic_memory", ones_by_the_first_block, one, some, 227 * 1024, one, some,
          227 * 1024 + 1);
    limit("too_many_threads", ones_by_the_first_block, one, dim3(128, 8), 0, one, dim3(128, 9), 0);
    limit("too_many_blocks", ones_by_the_first_block, dim3(1, 3), some, 0, dim3(1, 65536), some, 0);
    limit("no_blocks", ones_by_the_first_block, one, some, 0, dim3(0), some, 0);
    return cases;
}

std::string outcome(const Case& c, bool bug) {
    std::vector<float> y(kThreads, 0.0f), x(4 * kThreads);
    for (int i = 0; i < 4 * kThreads; ++i) x[i] = static_cast<float>(i);
    try {
        c.run[bug](y.data(), x.data());
    } catch (const std::exception& error) {
        return error.what();
    }
    for (int i = 0; i < kThreads; ++i) {
        if (y[i] != c.expected[i]) {
            return "wrong: y[" + std::to_string(i) + "] is " + std::to_string(y[i]) +
                   " instead of " + std::to_string(c.expected[i]);
        }
    }
    return "right";
}

}  // namespace

int main(int count, char** arguments) {
    const auto cases = all_cases();
    if (count == 1) {
        for (const auto& [name, unused] : cases) std::puts(name.c_str());
    }
    for (int i = 1; i < count; ++i) {
        const bool bug = arguments[i][0] == '-';
        std::puts(outcome(cases.at(arguments[i] + bug), bug).c_str());
        std::fflush(stdout);
    }
}
