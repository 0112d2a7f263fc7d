#include "emulator/hopper.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "core/hopper.cuh"
#include "emulator/accumulate.h"

namespace byhand::emulator {
namespace {

constexpr int kRowBytes = 128, kDepth = 16, kRows = 16, kCols = 128;

// The swizzle permutes the 16-byte pieces of each 128 bytes.
unsigned swizzled(unsigned address) { return address ^ (address >> 7 & 7) << 4; }

bool early() { return running->block->launch().schedule.early; }

}  // namespace

// --- State of a block --------------------------------------------------------------------------

void Hopper::begin(unsigned warps) {
    barriers_.clear();
    warps_.assign(warps, {});
}

std::string Hopper::left_open() const {
    const auto waits = [](const auto& each) { return each.second.unseen; };
    return std::any_of(barriers_.begin(), barriers_.end(), waits)
               ? "copy_box_async was not waited for"
               : "";
}

void Hopper::require_no_products(unsigned warp) {
    if (warps_[warp].issued > 0 || !warps_[warp].groups.empty()) {
        block_.fail("the end of the kernel", {}, "product_async was not waited for");
    }
}

// --- Phase barriers ----------------------------------------------------------------------------

void Hopper::open(PhaseBarrier& b, int arrivals, Where where) {
    const Quiet quiet;
    if (!block_.shared().owns(&b, sizeof b)) {
        block_.fail("open_barrier", where, "the barrier is not in shared memory");
    }
    if (arrivals < 1) block_.fail("open_barrier", where, "a phase needs at least one arrival");
    State& s = barriers_[&b];
    s = {};
    s.arrivals = s.missing = arrivals;
}

Hopper::State& Hopper::state(const char* what, PhaseBarrier& b, Where where) {
    const auto found = barriers_.find(&b);
    if (found == barriers_.end()) block_.fail(what, where, "the barrier was not opened");
    return found->second;
}

void Hopper::end_phase(State& s) {
    if (s.missing > 0 || s.bytes != 0) return;
    ++s.phase;
    s.missing = s.arrivals;
    block_.wake(s.waiting);
}

void Hopper::arrive(const char* what, PhaseBarrier& b, int bytes, Where where) {
    const Quiet quiet;
    State& s = state(what, b, where);
    if (s.missing == 0) block_.fail(what, where, "more arrivals than the barrier was opened for");
    s.ended[s.phase % 2].release();
    --s.missing;
    s.bytes += bytes;
    end_phase(s);
}

void Hopper::wait(PhaseBarrier& b, unsigned parity, Where where) {
    if (parity > 1) block_.fail("wait_phase", where, "a parity is 0 or 1");
    State& s = state("wait_phase", b, where);
    while (s.phase % 2 == parity) {
        if (!s.copies.empty()) {
            land(s);
        } else {
            const Quiet quiet;
            block_.wait_in(s.waiting, "wait_phase", where);
        }
    }
    const Quiet quiet;
    if (s.copies.empty()) s.unseen = false;
    s.ended[parity].acquire();
}

// --- Copies ------------------------------------------------------------------------------------

TensorMap map_matrix(const char* name, const bf16* data, int rows, int cols, int box_rows) {
    const bool holds = reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && cols % 8 == 0 &&
                       rows > 0 && cols > 0 && box_rows > 0 && box_rows <= 256;
    if (!holds) {
        throw std::runtime_error(std::string(name) + ": there is no map of a matrix of " +
                                 std::to_string(rows) + " by " + std::to_string(cols));
    }
    return {data, rows, cols, box_rows};
}

void Hopper::copy(const Copy& copy, PhaseBarrier& b, Where where) {
    State& s = state("copy_box_async", b, where);
    bool now = early();
    {
        const Quiet quiet;
        if (reinterpret_cast<std::uintptr_t>(copy.to) % kBoxAlignment != 0) {
            block_.fail("copy_box_async", where,
                        "the address in shared memory is not aligned to 1024");
        }
        const auto bytes = static_cast<std::size_t>(copy.map.box_rows) * kRowBytes;
        if (!block_.shared().owns(copy.to, bytes)) {
            block_.fail("copy_box_async", where, "the box is not in one shared variable");
        }
        s.issued.release();
        s.copies.push_back(copy);
        s.unseen = true;
        now |= !s.waiting.empty();
    }
    while (now && !s.copies.empty()) land(s);
}

void Hopper::land(State& s) {
    Copy copy;
    {
        const Quiet quiet;
        copy = s.copies.front();
        s.copies.erase(s.copies.begin());
    }
    s.issued.acquire();
    perform(copy);
    const Quiet quiet;
    s.ended[s.phase % 2].release();
    s.bytes -= std::int64_t{copy.map.box_rows} * kRowBytes;
    end_phase(s);
}

// The accesses here are those of the kernel, and visible to the sanitizers.
void Hopper::perform(const Copy& copy) {
    constexpr int kChunk = 8, kBytes = kChunk * static_cast<int>(sizeof(bf16));
    const TensorMap& map = copy.map;
    auto* const to = static_cast<unsigned char*>(copy.to);
    for (int r = 0; r < map.box_rows; ++r) {
        const int row = copy.row + r;
        for (int c = 0; c < kBoxCols; c += kChunk) {
            bf16 values[kChunk] = {};
            for (int i = 0; i < kChunk; ++i) {
                const int col = copy.col + c + i;
                if (row < 0 || row >= map.rows || col < 0 || col >= map.cols) continue;
                values[i] = map.data[std::int64_t{row} * map.cols + col];
            }
            const unsigned place = swizzled(static_cast<unsigned>(r * kRowBytes + c * 2));
            std::memcpy(to + place, values, kBytes);
        }
    }
}

// --- Products ----------------------------------------------------------------------------------

// Bits 0-13 start, 16-29 leading and 32-45 stride, in units of 16 bytes; 49-51 the offset of the
// swizzle pattern; 62-63 the kind of swizzle.
std::uint64_t Hopper::operand(const void* shared, int leading, int stride, Where where) {
    const Quiet quiet;
    if (!block_.shared().owns(shared, 16)) {
        block_.fail("operand", where, "the address is not in shared memory");
    }
    const auto units = [](unsigned bytes) { return std::uint64_t{bytes >> 4 & 0x3fff}; };
    return units(block_.shared().address(shared)) | units(static_cast<unsigned>(leading)) << 16 |
           units(static_cast<unsigned>(stride)) << 32 | std::uint64_t{1} << 62;
}

const unsigned char* Hopper::chunk(unsigned address, Where where) {
    const Quiet quiet;
    const unsigned char* const p = block_.shared().at(swizzled(address));
    if (!block_.shared().owns(p, 16)) {
        block_.fail("product_async", where, "a factor is not in one shared variable");
    }
    return p;
}

// Reads `count` rows of the left factor, or columns of the right one, from `first` on, to to[i][k].
void Hopper::read(float* to, std::uint64_t descriptor, bool across, int first, int count,
                  Where where) {
    const auto bytes = [&](int bit) {
        return static_cast<unsigned>(descriptor >> bit & 0x3fff) << 4;
    };
    const unsigned start = bytes(0), leading = bytes(16), stride = bytes(32);
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) {
        block_.fail("product_async", where,
                    "an operand has no 128-byte swizzle that begins at a multiple of 1024");
    }
    bf16 values[8];
    for (int i = first; i < first + count; ++i) {
        if (!across) {
            const auto row = static_cast<unsigned>(i);
            for (unsigned half = 0; half < 2; ++half) {
                const unsigned at = start + row / 8 * stride + row % 8 * kRowBytes + half * 16;
                std::memcpy(values, chunk(at, where), sizeof values);
                for (unsigned k = 0; k < 8; ++k) {
                    to[(i - first) * kDepth + static_cast<int>(half * 8 + k)] = to_float(values[k]);
                }
            }
        } else if (i % 8 == 0) {
            const unsigned box = static_cast<unsigned>(i) / kBoxCols;
            const unsigned place = static_cast<unsigned>(i) % kBoxCols * 2;
            for (unsigned k = 0; k < kDepth; ++k) {
                const unsigned at =
                    start + box * leading + place + k / 8 * stride + k % 8 * kRowBytes;
                std::memcpy(values, chunk(at, where), sizeof values);
                for (int j = 0; j < 8; ++j) {
                    to[(i - first + j) * kDepth + static_cast<int>(k)] = to_float(values[j]);
                }
            }
        }
    }
}

// Sums as in mma_bf16.
void Hopper::perform(const Product& p, unsigned warp) {
    float left[kRows][kDepth], columns[kCols][kDepth];
    read(&left[0][0], p.left, p.left_across, static_cast<int>(warp % 4) * kRows, kRows, p.where);
    read(&columns[0][0], p.right, p.right_across, 0, kCols, p.where);
    const Quiet quiet;
    double right[kDepth][kCols];
    for (int n = 0; n < kCols; ++n) {
        for (int k = 0; k < kDepth; ++k) right[k][n] = columns[n][k];
    }
    for (int m = 0; m < kRows; ++m) {
        const auto sum = [&](int n) -> float& {  // a lane holds two columns of every eight
            return p.d[m % 8 * 4 + n % 8 / 2][n / 8 * 4 + m / 8 * 2 + n % 2];
        };
        double sums[kCols];
        for (int n = 0; n < kCols; ++n) sums[n] = sum(n);
        add_products<kDepth, kDepth>(sums, left[m], right);
        for (int n = 0; n < kCols; ++n) sum(n) = static_cast<float>(sums[n]);
    }
}

void Hopper::multiply(const Product& mine) {
    Product product = mine;
    const unsigned number = running->warp();
    Warp& warp = warps_[number];
    {
        const Quiet quiet;
        if (!warp.open) {
            block_.fail("product_async", mine.where,
                        "no open_products since the sums were last touched");
        }
        void* const* lanes = block_.meet("product_async", kWholeWarp, &product, mine.where, true);
        if (lanes == nullptr) return;
        for (int lane = 1; lane < kWarp; ++lane) {
            const auto& other = *static_cast<const Product*>(lanes[lane]);
            if (other.left != product.left || other.right != product.right) {
                block_.fail("product_async", mine.where, "the lanes of a warp disagree");
            }
        }
        float* d[32];
        for (int lane = 0; lane < kWarp; ++lane) {
            d[lane] = static_cast<const Product*>(lanes[lane])->d[0];
        }
        std::copy(d, d + kWarp, product.d);
        ++warp.issued;
        if (early()) warp.products.push_back(product);
    }
    if (!early()) perform(product, number);
}

void Hopper::open_products(Where where) {
    const Quiet quiet;
    block_.meet("open_products", kWholeWarp, nullptr, where, true);
    warps_[running->warp()].open = true;
}

void Hopper::close_products(Where where) {
    const Quiet quiet;
    if (block_.meet("close_products", kWholeWarp, nullptr, where, true) == nullptr) return;
    Warp& warp = warps_[running->warp()];
    warp.groups.push_back(warp.issued);
    warp.issued = 0;
}

void Hopper::wait_products(const char* what, int open, bool all, Where where) {
    const unsigned number = running->warp();
    Warp& warp = warps_[number];
    bool last = false;
    {
        const Quiet quiet;
        last = block_.meet(what, kWholeWarp, nullptr, where, true) != nullptr;
    }
    if (last) {
        while (warp.groups.size() > static_cast<std::size_t>(open)) {
            std::vector<Product> group;
            {
                const Quiet quiet;
                const auto end = warp.products.begin() +
                                 static_cast<std::ptrdiff_t>(early() ? warp.groups[0] : 0);
                group.assign(warp.products.begin(), end);
                warp.products.erase(warp.products.begin(), end);
                warp.groups.erase(warp.groups.begin());
            }
            for (const Product& product : group) perform(product, number);
        }
        warp.done.release();
    } else {
        warp.done.acquire();
    }
    const Quiet quiet;
    if (all) warp.open = false;
}

}  // namespace byhand::emulator
