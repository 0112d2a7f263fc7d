// Kernels with one bug each, and the same kernels without it. test_planted.py lists which tool has
// to find which bug. A program:
//
//   planted NAME...     runs these kernels without their bugs; with it where NAME begins with "-"
//
// which prints a line for each: "right", a wrong number and the right one, or the error.
#include <cstdio>
#include <functional>
#include <map>
#include <vector>

#include "core/hopper.cuh"

using namespace byhand;

namespace {

constexpr int kThreads = 128;

BYHAND_DEVICE int rank_of() { return static_cast<int>(threadIdx.x); }
BYHAND_DEVICE int lane_of() { return rank_of() % kWarp; }
BYHAND_DEVICE int warp_of() { return rank_of() / kWarp; }

// --- Bugs that give wrong numbers --------------------------------------------------------------

template <bool bug>
__global__ void no_barrier(float* y) {
    BYHAND_SHARED(float[kThreads], v);
    v[rank_of()] = static_cast<float>(rank_of());
    if (!bug) sync_block();
    y[rank_of()] = v[kThreads - 1 - rank_of()];
}

// A buffer that one warp overwrites while the others may still read it.
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
    if (!bug) sync_block();  // before the next sum uses the same memory
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
__global__ void reads_unwritten_memory(float* y) {
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

// --- Undefined behaviour of CUDA ---------------------------------------------------------------

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

// --- Hopper ------------------------------------------------------------------------------------

// The matrix is the memory of x read as bfloat16, 128 rows of 8: every second element is the upper
// half of a number of x. A block has boxes of 64 and of 128 rows, both 64 columns wide, mostly
// zeros.
constexpr int kLeftBytes = 64 * 128, kRightBytes = 128 * 128;
constexpr int kBoxBytes = kBoxAlignment + kLeftBytes + kRightBytes;
using Sums128 = float[1][16][4];

struct Boxes {
    PhaseBarrier& barrier;
    unsigned char *left, *right;

    BYHAND_DEVICE void open(int arrivals = 1) const {
        if (rank_of() == 0) {
            open_barrier(barrier, arrivals);
            share_barriers();
        }
        sync_block();
    }
    BYHAND_DEVICE void fetch_left(const TensorMap& map, int row) const {
        if (rank_of() > 0) return;
        arrive_and_expect(barrier, kLeftBytes);
        copy_box_async(left, map, row, 0, barrier);
    }
    BYHAND_DEVICE void fetch_right(const TensorMap& map, int more_bytes = 0) const {
        if (rank_of() > 0) return;
        arrive_and_expect(barrier, kRightBytes + more_bytes);
        copy_box_async(right, map, 0, 0, barrier);
    }
    // x[4 row], the row's second number, for each thread another row.
    BYHAND_DEVICE float seen() const {
        const auto* const row = reinterpret_cast<const bf16*>(right + rank_of() * 128);
        return to_float(row[rank_of() % 8 * 8 + 1]);
    }
    // Both of them, and their product, which is not waited for.
    BYHAND_DEVICE void multiply(Sums128& sums, const TensorMap& left_map,
                                const TensorMap& right_map, int stride = 1024) const {
        open(2);
        fetch_left(left_map, 0);
        fetch_right(right_map);
        wait_phase(barrier, 0);
        open_products(sums);
        product_async<false, false>(sums[0], operand(left, 0, 1024), operand(right, 0, stride));
        close_products();
    }
};
#define BOXES(name)                       \
    BYHAND_DYNAMIC_SHARED(name##_memory); \
    BYHAND_SHARED(PhaseBarrier, phase);   \
    const Boxes name = {phase, align_box(name##_memory), align_box(name##_memory) + kLeftBytes}

BYHAND_DEVICE float last_of(const Sums128& sums) { return sums[0][15][3]; }

template <bool bug>
__global__ void does_not_wait_for_a_box(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    boxes.open();
    boxes.fetch_right(right);
    sync_block();
    if (!bug) wait_phase(phase, 0);
    y[rank_of()] = boxes.seen();
    if (bug) wait_phase(phase, 0);
}

template <bool bug>
__global__ void waits_for_the_wrong_parity(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    boxes.open();
    boxes.fetch_right(right);
    wait_phase(phase, bug ? 1 : 0);
    y[rank_of()] = boxes.seen();
    if (bug) wait_phase(phase, 0);
}

template <bool bug>
__global__ void wrong_stride_of_a_factor(float* y, TensorMap left, TensorMap right) {
    BOXES(boxes);
    Sums128 sums = {};
    boxes.multiply(sums, left, right, bug ? 512 : 1024);
    wait_all_products(sums);
    y[rank_of()] = last_of(sums);
}

template <bool bug>
__global__ void reads_sums_too_early(float* y, TensorMap left, TensorMap right) {
    BOXES(boxes);
    Sums128 sums = {};
    boxes.multiply(sums, left, right);
    if (!bug) wait_all_products(sums);
    y[rank_of()] = last_of(sums);
    if (bug) wait_all_products(sums);
}

// A box that is copied while the tensor cores still read the previous one.
template <bool bug>
__global__ void releases_a_box_too_early(float* y, TensorMap left, TensorMap right) {
    BOXES(boxes);
    Sums128 sums = {};
    boxes.multiply(sums, left, right);
    if (!bug) wait_all_products(sums);
    sync_block();
    if (rank_of() == 1) arrive(phase);
    boxes.fetch_left(left, 64);
    wait_phase(phase, 1);
    if (bug) wait_all_products(sums);
    y[rank_of()] = last_of(sums);
}

template <bool bug>
__global__ void ends_with_open_products(float* y, TensorMap left, TensorMap right) {
    BOXES(boxes);
    Sums128 sums = {};
    boxes.multiply(sums, left, right);
    if (!bug) wait_all_products(sums);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void ends_with_an_open_box(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    boxes.open();
    boxes.fetch_right(right);
    if (!bug) wait_phase(phase, 0);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void touches_sums_between_products(float* y, TensorMap left, TensorMap right) {
    BOXES(boxes);
    Sums128 sums = {};
    boxes.multiply(sums, left, right);
    wait_all_products(sums);
    if (!bug) open_products(sums);
    product_async<false, false>(sums[0], operand(boxes.left, 0, 1024),
                                operand(boxes.right, 0, 1024));
    close_products();
    wait_all_products(sums);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void expects_too_many_bytes(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    boxes.open();
    boxes.fetch_right(right, bug ? 128 : 0);
    wait_phase(phase, 0);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void arrives_too_often(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    boxes.open();
    if (rank_of() == 0) {
        arrive_and_expect(phase, kRightBytes);
        if (bug) arrive(phase);
        copy_box_async(boxes.right, right, 0, 0, phase);
    }
    wait_phase(phase, 0);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void barrier_that_was_not_opened(float* y, TensorMap, TensorMap right) {
    BOXES(boxes);
    if (!bug) boxes.open();
    boxes.fetch_right(right);
    wait_phase(phase, 0);
    y[rank_of()] = 1.0f;
}

template <bool bug>
__global__ void misaligned_box(float* y, TensorMap left, TensorMap) {
    BOXES(boxes);
    boxes.open();
    if (rank_of() == 0) {
        arrive_and_expect(phase, kLeftBytes);
        copy_box_async(boxes.left + (bug ? 128 : 0), left, 0, 0, phase);
    }
    wait_phase(phase, 0);
    y[rank_of()] = 1.0f;
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
    ADD(reads_unwritten_memory, every([](int) { return 0.5f; }));
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
    // Of a lane's last sum, row r and column c: the numbers of x, cut off, come four to a row.
    const auto product = every([](int i) {
        const int lane = i % kWarp, r = i / kWarp * 16 + lane / 4 + 8, c = 121 + lane % 4 * 2;
        float sum = 0.0f;
        for (int j = 0; j < 4; ++j) {
            const auto cut = [&](int row) {
                return float_of(bits_of(static_cast<float>(4 * row + j)) & 0xffff0000u);
            };
            sum += cut(r) * cut(c);
        }
        return sum;
    });
    const auto seen = every([](int i) { return static_cast<float>(4 * i); });
    const auto add_hopper = [&](const char* name, std::vector<float> expected, auto right,
                                auto wrong) {
        const auto runner = [=](auto kernel) {
            return [=](float* y, const float* x) {
                const auto* const data = reinterpret_cast<const bf16*>(x);
                launch_shared(name, kernel, dim3(1), dim3(kThreads), kBoxBytes, Stream{}, y,
                              map_matrix(name, data, 128, 8, 64),
                              map_matrix(name, data, 128, 8, 128));
            };
        };
        cases[name] = {{runner(right), runner(wrong)}, std::move(expected)};
    };
#define ADD(name, expected) add_hopper(#name, expected, name<false>, name<true>)
    ADD(does_not_wait_for_a_box, seen);
    ADD(waits_for_the_wrong_parity, seen);
    ADD(wrong_stride_of_a_factor, product);
    ADD(reads_sums_too_early, product);
    ADD(releases_a_box_too_early, product);
    ADD(ends_with_open_products, ones);
    ADD(ends_with_an_open_box, ones);
    ADD(touches_sums_between_products, ones);
    ADD(expects_too_many_bytes, ones);
    ADD(arrives_too_often, ones);
    ADD(barrier_that_was_not_opened, ones);
    ADD(misaligned_box, ones);
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
