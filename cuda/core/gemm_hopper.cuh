// A block of three warpgroups stays on its multiprocessor and makes one tile of the product after
// another. One thread keeps a ring in shared memory filled with panels of both factors, tile after
// tile and step after step. Two warpgroups empty it, a tile each in turn: whoever has issued its
// products lets the other one begin, and does its epilogue while the tensor cores work on that
// one's tile (the "ping-pong" schedule of CUTLASS 3; Shah et al. 2024, "FlashAttention-3", 3.1).
//
// Tiles are 128 x 128: a warpgroup alone has one, and wider ones would leave a thread too few
// registers beside its sums, of which it has 128. One size fits all, so there is one kernel for
// each way the factors lie. A step reads 32 KB for 2^21 operations, which for large products may be
// more than the second-level cache gives: panels that clusters of two blocks share would be the
// next thing to try.
#pragma once

#include "core/gemm_tiles.cuh"
#include "core/hopper.cuh"

namespace byhand {

struct HopperTile {
    static constexpr int kRows = 128, kCols = 128, kDeep = kBoxCols, kStages = 5;
    static constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kWarpgroup;
    static constexpr int kPanel = kRows * kDeep * static_cast<int>(sizeof(bf16));  // bytes
    static constexpr int kStage = 2 * kPanel;
    static constexpr int kSheets = kConsumers * 4 * kSheet * static_cast<int>(sizeof(float));
    static constexpr int kShared = kBoxAlignment + kStages * kStage + kSheets;
    // Of 168 that a thread begins with: 3 * 168 = 24 + 2 * 240.
    static constexpr int kFew = 24, kMany = 240;
    static_assert(kRows == kCols, "panels of both factors are alike");
};

// A panel is one box of 128 rows along the depth, or two of 64 steps of depth across it, one beside
// the other. Either way a box of 64 rows of the product follows 8 KB after another.
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
    // 16 steps of depth, from this one on.
    static BYHAND_DEVICE unsigned long long at(const unsigned char* panel, int depth) {
        return operand(panel + depth * (kAcross ? kBoxCols * 2 : 2), kHalf, kGroup);
    }
};

// A place in the ring, and how often, modulo 2, one has come round to it.
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
    unsigned char* const ring = align_box(bytes);
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
    const int warp = shuffle(warp_id(), 0), group = warp / 4;  // which the compiler knows are one's
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
        const Sheet sheet{reinterpret_cast<float*>(ring + H::kStages * H::kStage) + warp * kSheet};
        tile += group * apart;
        place.advance(group * steps);
        // Parities tell a phase from its neighbours only: without taking turns, who comes to a
        // stage two rounds early would find it full.
        unsigned parity = group == 0 ? 1 : 0;  // the first one has the first turn
        for (; tile < rows * cols; tile += H::kConsumers * apart, place.advance(steps)) {
            wait_phase(turns[group], parity);
            parity ^= 1;
            Sums sums[2][16] = {};  // of 64 rows each
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
                wait_products<1>();  // the tensor cores have the next step before this one ends
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
                for (int j = 0; j < 4; ++j) {  // registers have no index
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
