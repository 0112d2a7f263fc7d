#include "emulator/tensor.h"

#include <cstdint>
#include <cstring>

#include "emulator/accumulate.h"
#include "emulator/bfloat16.h"
#include "emulator/block.h"

namespace byhand::emulator {
namespace {

constexpr unsigned kAll = 0xffffffffu;

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

void require_shared(const char* what, const void* p, Where where) {
    Block& block = *running->block;
    if (!aligned(p)) block.fail(what, where, "the address in shared memory is not aligned to 16");
    if (!block.shared().owns(p, 16)) {
        block.fail(what, where, "16 bytes at this address are not in one shared variable");
    }
}

struct Rows {
    unsigned* r;
    const void* row;
};

struct Fragments {
    float* d;
    const unsigned *a, *b;
};

// d[lane][i] += the sum over the K elements of a row of A and a column of B, for all elements of D.
// Lane 4 g + t holds rows g and g + 8 of A and D, column g of B, and columns 2 t and 2 t + 1 of D.
template <int K, int kGroup, class A, class B>
void multiply(void* const* lanes, A a, B b) {
    float rows[16][K];
    double right[K][8];
    for (int k = 0; k < K; ++k) {
        for (int m = 0; m < 16; ++m) rows[m][k] = a(lanes, m, k);
        for (int n = 0; n < 8; ++n) right[k][n] = b(lanes, n, k);
    }
    for (int m = 0; m < 16; ++m) {
        // The four lanes of a row hold two columns each.
        float* d[4];
        for (int t = 0; t < 4; ++t) {
            d[t] = static_cast<const Fragments*>(lanes[m % 8 * 4 + t])->d + m / 8 * 2;
        }
        double sums[8];
        for (int n = 0; n < 8; ++n) sums[n] = d[n / 2][n % 2];
        add_products<K, kGroup>(sums, rows[m], right);
        for (int n = 0; n < 8; ++n) d[n / 2][n % 2] = static_cast<float>(sums[n]);
    }
}

const Fragments& fragments(void* const* lanes, int lane) {
    return *static_cast<const Fragments*>(lanes[lane]);
}

float half_of(unsigned pair, int k) {
    return float_of(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

}  // namespace

void ldmatrix(const char* what, unsigned* r, int matrices, const void* row, bool transpose,
              Where where) {
    const Quiet quiet;
    // Only the first 8 lanes per matrix give an address that is used.
    if (running->lane() < static_cast<unsigned>(8 * matrices)) require_shared(what, row, where);
    Rows mine = {r, row};
    void* const* lanes = running->block->meet(what, kAll, &mine, where);
    if (lanes == nullptr) return;
    for (int m = 0; m < matrices; ++m) {
        std::uint16_t matrix[8][8];
        for (int i = 0; i < 8; ++i) {
            std::memcpy(matrix[i], static_cast<const Rows*>(lanes[8 * m + i])->row, 16);
        }
        for (int lane = 0; lane < 32; ++lane) {
            const int i = lane / 4, j = lane % 4 * 2;
            const unsigned low = transpose ? matrix[j][i] : matrix[i][j];
            const unsigned high = transpose ? matrix[j + 1][i] : matrix[i][j + 1];
            static_cast<const Rows*>(lanes[lane])->r[m] = low | high << 16;
        }
    }
}

void mma_bf16(float* d, const unsigned* a, const unsigned* b, Where where) {
    const Quiet quiet;
    Fragments mine = {d, a, b};
    void* const* lanes = running->block->meet("mma_bf16", kAll, &mine, where);
    if (lanes == nullptr) return;
    multiply<16, 16>(
        lanes,
        [](void* const* all, int m, int k) {
            const Fragments& f = fragments(all, m % 8 * 4 + k % 8 / 2);
            return half_of(f.a[m / 8 + k / 8 * 2], k);
        },
        [](void* const* all, int n, int k) {
            return half_of(fragments(all, n * 4 + k % 8 / 2).b[k / 8], k);
        });
}

void mma_tf32(float* d, const unsigned* a, const unsigned* b, Where where) {
    const Quiet quiet;
    Fragments mine = {d, a, b};
    void* const* lanes = running->block->meet("mma_tf32", kAll, &mine, where);
    if (lanes == nullptr) return;
    constexpr unsigned kUsed = ~0x1fffu;  // the hardware ignores the low bits
    multiply<8, 4>(
        lanes,
        [](void* const* all, int m, int k) {
            return float_of(fragments(all, m % 8 * 4 + k % 4).a[m / 8 + k / 4 * 2] & kUsed);
        },
        [](void* const* all, int n, int k) {
            return float_of(fragments(all, n * 4 + k % 4).b[k / 4] & kUsed);
        });
}

unsigned to_tf32(float x) {
    const unsigned bits = bits_of(x);
    if (x != x) return 0x7fffffffu;
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & ~0x1fffu;
}

namespace {

// The accesses of the copy are those of the kernel, and visible to the sanitizers.
void perform(const AsyncCopy& copy) {
    if (copy.whole) {
        std::memcpy(copy.to, copy.from, 16);
    } else {
        std::memset(copy.to, 0, 16);
    }
}

}  // namespace

void copy_async16(void* shared, const void* global, bool whole, Where where) {
    Fiber& self = *running;
    {
        const Quiet quiet;
        require_shared("copy_async16", shared, where);
        if (!aligned(global)) {
            self.block->fail("copy_async16", where,
                             "the address in global memory is not aligned to 16");
        }
        self.copies.push_back({shared, global, whole});
    }
    if (self.block->launch().schedule.early) perform({shared, global, whole});
}

void copy_async_commit() {
    const Quiet quiet;
    std::size_t earlier = 0;
    for (const std::size_t group : running->groups) earlier += group;
    running->groups.push_back(running->copies.size() - earlier);
}

void copy_async_wait(int open) {
    Fiber& self = *running;
    while (true) {
        std::vector<AsyncCopy> group;
        {
            const Quiet quiet;
            if (self.groups.size() <= static_cast<std::size_t>(open)) return;
            const auto end = self.copies.begin() + static_cast<std::ptrdiff_t>(self.groups[0]);
            group.assign(self.copies.begin(), end);
            self.copies.erase(self.copies.begin(), end);
            self.groups.erase(self.groups.begin());
            if (self.block->launch().schedule.early) continue;  // performed when it was issued
        }
        for (const AsyncCopy& copy : group) perform(copy);
    }
}

}  // namespace byhand::emulator
