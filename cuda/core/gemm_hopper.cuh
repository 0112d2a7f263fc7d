// A persistent kernel: each block has three warpgroups and computes several tiles of the product,
// one after another. One thread, the producer, fills a ring buffer in shared memory with panels of
// both factors, for all steps of all tiles. Two warpgroups consume them, with alternating tiles:
// when one has issued its products, the other one begins, and the first computes its epilogue while
// the tensor cores work on the other tile (the "ping-pong" schedule of CUTLASS 3; Shah et al. 2024,
// "FlashAttention-3", 3.1).
//
// Tiles are 128 x 128, one per warpgroup: each thread has 128 sums, and larger tiles would leave it
// too few other registers. There is one tile size, so there is one kernel for each combination of
// layouts of the factors. A step reads 32 KB for 2^21 operations, which for large products may
// exceed the bandwidth of the second-level cache; sharing panels in clusters of two blocks is not
// tried yet.
#pragma once

#include "core/gemm_tiles.cuh"
#include "core/hopper.cuh"

namespace byhand {

struct HopperTile {
    static constexpr int kRows = 128, kCols = 128, kDeep = kBoxCols, kStages = 5;
    static constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kWarpgroup;
    static constexpr int kPanel = kRows * kDeep * static_cast<int>(sizeof(bf16));  // in bytes
    static constexpr int kStage = 2 * kPanel;
    static constexpr int kSheets = kConsumers * 4 * kSheet * static_cast<int>(sizeof(float));
    static constexpr int kShared = kBoxAlignment + kStages * kStage + kSheets;
    // Registers of a producer and of a consumer thread, from 168 each: 3 * 168 = 24 + 2 * 240.
    static constexpr int kFew = 24, kMany = 240;
    static_assert(kRows == kCols, "panels of both factors have the same size");
};

// A panel along the depth is one box of 128 rows; a panel across the depth is two boxes of 64 steps
// of depth. In both cases 64 rows of the product are 8 KB.
template <bool kAcross>
struct PanelBoxes {
    static constexpr int kBoxRows = kAcross ? HopperTile::kDeep : HopperTile::kRows;
    static constexpr int kHalf = HopperTile::kPanel / 2, kGroup = 8 * kBoxCols * 2;

    static BYHAND_DEVICE void fetch(unsigned char* to, const TensorMap& map, int row, int depth,
                                    PhaseBarrier& full) {
        if constexpr (kAcross) {
            copy_box_async(to, map, depth, row, full);
            copy_box_async(to + kHalf, map, depth, row + kBoxCols, full);
        } else {
            copy_box_async(to, map, row, depth, full);
        }
    }
    // The descriptor of 16 steps of depth, from this one on.
    static BYHAND_DEVICE unsigned long long at(const unsigned char* panel, int depth) {
        return operand(panel + depth * (kAcross ? kBoxCols * 2 : 2), kHalf, kGroup);
    }
};

// A stage of the ring buffer, and how many times the ring was passed, modulo 2.
struct RingPlace {
    int stage = 0;
    unsigned round = 0;

    BYHAND_DEVICE void advance(int steps) {
        stage += steps;
        round ^= static_cast<unsigned>(stage / HopperTile::kStages) & 1;
        stage %= HopperTile::kStages;
    }
};

template <bool kLeftAcross, bool kRightAcross>
BYHAND_DEVICE void run_gemm_hopper(const Product<bf16>& p, const TensorMap& left,
                                   const TensorMap& right) {
    using H = HopperTile;
    using Left = PanelBoxes<kLeftAcross>;
    using Right = PanelBoxes<kRightAcross>;
    BYHAND_DYNAMIC_SHARED(bytes);
    BYHAND_SHARED(PhaseBarrier[H::kStages], full);
    BYHAND_SHARED(PhaseBarrier[H::kStages], empty);
    BYHAND_SHARED(PhaseBarrier[H::kConsumers], turns);
    // The sheets come first: where their alignment is known, the compiler moves several elements at
    // a time.
    unsigned char* const ring = align_box(bytes + H::kSheets);
    if (threadIdx.x == 0) {
        for (int s = 0; s < H::kStages; ++s) {
            open_barrier(full[s], 1);
            open_barrier(empty[s], kWarpgroup / kWarp);
        }
        for (PhaseBarrier& turn : turns) open_barrier(turn, kWarpgroup / kWarp);
        share_barriers();
    }
    sync_block();

    const int rows = (p.M + H::kRows - 1) / H::kRows, cols = (p.N + H::kCols - 1) / H::kCols;
    const int steps = (p.K + H::kDeep - 1) / H::kDeep;
    const int warp = shuffle(warp_id(), 0), group = warp / 4;  // uniform for the compiler
    const int apart = static_cast<int>(gridDim.x);
    int tile = static_cast<int>(blockIdx.x);
    RingPlace place;
    if (group == H::kConsumers) {
        give_registers<H::kFew>();
        if (warp % 4 > 0 || lane_id() > 0) return;
        for (; tile < rows * cols; tile += apart) {
            const TilePlace at(tile, rows, cols);
            for (int step = 0; step < steps; ++step, place.advance(1)) {
                unsigned char* const to = ring + place.stage * H::kStage;
                PhaseBarrier& here = full[place.stage];
                wait_phase(empty[place.stage], place.round ^ 1);
                arrive_and_expect(here, H::kStage);
                Left::fetch(to, left, at.row * H::kRows, step * H::kDeep, here);
                Right::fetch(to + H::kPanel, right, at.col * H::kCols, step * H::kDeep, here);
            }
        }
    } else {
        take_registers<H::kMany>();
        const Sheet sheet{reinterpret_cast<float*>(bytes) + warp * kSheet};
        tile += group * apart;
        place.advance(group * steps);
        // A parity distinguishes only adjacent phases: without alternating, a warpgroup that
        // reaches a stage two rounds early would consider it full.
        unsigned parity = group == 0 ? 1 : 0;  // warpgroup 0 goes first
        for (; tile < rows * cols; tile += H::kConsumers * apart, place.advance(steps)) {
            wait_phase(turns[group], parity);
            parity ^= 1;
            Sums sums[2][16] = {};  // for 64 rows each
            int before = 0;
            for (int step = 0; step < steps; ++step, place.advance(1)) {
                const unsigned char* const from = ring + place.stage * H::kStage;
                wait_phase(full[place.stage], place.round);
                open_products(sums);
#pragma unroll
                for (int depth = 0; depth < H::kDeep; depth += 16) {
                    const unsigned long long b = Right::at(from + H::kPanel, depth);
#pragma unroll
                    for (int m = 0; m < 2; ++m) {
                        const unsigned long long a = Left::at(from + m * Left::kHalf, depth);
                        product_async<kLeftAcross, kRightAcross>(sums[m], a, b);
                    }
                }
                close_products();
                wait_products<1>();  // the next step is issued before this one has finished
                if (step > 0 && lane_id() == 0) arrive(empty[before]);
                before = place.stage;
            }
            if (lane_id() == 0) arrive(turns[1 - group]);
            wait_all_products(sums);
            if (lane_id() == 0) arrive(empty[before]);

            const TilePlace at(tile, rows, cols);
            const int row = at.row * H::kRows + warp % 4 * 16, col = at.col * H::kCols;
#pragma unroll 1
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {  // constant indices keep the sums in registers
                    if (j == i) fill_sheet(sheet, &sums[j / 2][j % 2 * 8]);
                }
                finish_sheet<kLeftAcross, kRightAcross>(p, sheet, row + i / 2 * 64,
                                                        col + i % 2 * 64);
            }
        }
    }
}

template <bool kLeftAcross, bool kRightAcross>
__global__ void __launch_bounds__(HopperTile::kThreads, 1)
    gemm_hopper(const __grid_constant__ Product<bf16> p, const __grid_constant__ TensorMap left,
                const __grid_constant__ TensorMap right) {
    if constexpr (kHopper) run_gemm_hopper<kLeftAcross, kRightAcross>(p, left, right);
}

}  // namespace byhand
