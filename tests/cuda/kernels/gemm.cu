// The matrix multiply alone, for tests that plant bugs in its headers: c = a bT in float32, by
// tiles, in pieces, and for few rows. Prints "right" or an error.
#include <cmath>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "core/gemm_few.cuh"
#include "core/gemm_tiles.cuh"

using namespace byhand;

namespace {

// An array that is aligned to 16 bytes.
struct Numbers {
    std::vector<float> memory;
    float* data;

    explicit Numbers(int size) : memory(size + 4, not_a_number()), data(memory.data()) {
        while (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) ++data;
    }
};

struct Sizes {
    int M, N, K;
};

Product<float> product(float* c, const float* a, const float* b, Sizes s) {
    Epilogue<float> epilogue;
    epilogue.c = c;
    return {{a, s.M, s.K, packable<float>(s.K, a)},
            {b, s.N, s.K, packable<float>(s.K, b)},
            s.M,
            s.N,
            s.K,
            epilogue,
            packable<float>(s.N, c),
            false};
}

// In pieces of `steps` steps.
void by_tiles(Product<float> p, int steps) {
    using G = GemmTile<float, false, false>;
    const int all = (p.K + G::kDeep - 1) / G::kDeep, pieces = (all + steps - 1) / steps;
    const int tiles = (p.M + G::kRows - 1) / G::kRows * ((p.N + G::kCols - 1) / G::kCols);
    Numbers room(pieces * p.M * p.N);
    p.steps = steps;
    if (pieces > 1) p.pieces = room.data;
    launch_shared("gemm", gemm_tiles<float, false, false>, dim3(tiles, pieces), dim3(G::kThreads),
                  G::kShared, Stream{}, p);
    if (pieces == 1) return;
    p.pieces = nullptr;
    launch("gemm", gemm_add_pieces<float, false, false, 4>, dim3(2), dim3(128), Stream{}, p,
           static_cast<const float*>(room.data), pieces);
}

void by_few(const Product<float>& p) {
    launch("gemm", gemm_few<float>, dim3(blocks_for(p.N, GemmFew::kCols)), dim3(GemmFew::kThreads),
           Stream{}, p);
}

// Small integers, whose sums are exact in any order.
bool exact(Sizes s, int steps) {
    Numbers a(s.M * s.K), b(s.N * s.K), c(s.M * s.N), few(s.M * s.N);
    unsigned state = 1;
    const auto next = [&] { return static_cast<float>((state = state * 1664525 + 1) >> 28) - 8; };
    for (int i = 0; i < s.M * s.K; ++i) a.data[i] = next();
    for (int i = 0; i < s.N * s.K; ++i) b.data[i] = next();
    by_tiles(product(c.data, a.data, b.data, s), steps);
    const bool is_few = s.M <= GemmFew::kRows;
    if (is_few) by_few(product(few.data, a.data, b.data, s));
    for (int i = 0; i < s.M; ++i) {
        for (int j = 0; j < s.N; ++j) {
            float sum = 0.0f;
            for (int k = 0; k < s.K; ++k) sum += a.data[i * s.K + k] * b.data[j * s.K + k];
            if (c.data[i * s.N + j] != sum) return false;
            if (is_few && few.data[i * s.N + j] != sum) return false;
        }
    }
    return true;
}

// The largest relative error of a product with a depth of 1024 of numbers in 0.5 .. 1.5, whose sums
// only grow: truncating them would add up.
double error_of_long_sums() {
    const Sizes s = {8, 16, 1024};
    Numbers a(s.M * s.K), b(s.N * s.K), tiles(s.M * s.N), few(s.M * s.N);
    unsigned state = 1;
    const auto next = [&] {
        return 0.5f + static_cast<float>((state = state * 1664525 + 1013904223) >> 8) * 0x1p-24f;
    };
    for (int i = 0; i < s.M * s.K; ++i) a.data[i] = next();
    for (int i = 0; i < s.N * s.K; ++i) b.data[i] = next();
    by_tiles(product(tiles.data, a.data, b.data, s), 100);
    by_few(product(few.data, a.data, b.data, s));
    double largest = 0.0;
    for (int i = 0; i < s.M; ++i) {
        for (int j = 0; j < s.N; ++j) {
            double sum = 0.0;
            for (int k = 0; k < s.K; ++k) sum += double{a.data[i * s.K + k]} * b.data[j * s.K + k];
            for (const float* c : {tiles.data, few.data}) {
                largest = std::max(largest, std::abs(c[i * s.N + j] - sum) / sum);
            }
        }
    }
    return largest;
}

// Three pieces with one nonzero number each.
float in_order(float first, float second, float third) {
    const Sizes s = {1, 4, 48};
    Numbers a(s.K), b(s.N * s.K), c(s.N);
    for (int k = 0; k < s.K; ++k) a.data[k] = 0.0f;
    for (int i = 0; i < s.N * s.K; ++i) b.data[i] = 1.0f;
    a.data[0] = first, a.data[16] = second, a.data[32] = third;
    by_tiles(product(c.data, a.data, b.data, s), 1);
    return c.data[0];
}

std::string said() {
    for (const Sizes s : {Sizes{70, 132, 340}, Sizes{16, 40, 340}, Sizes{3, 20, 1200}}) {
        for (const int steps : {100, 7}) {
            if (!exact(s, steps)) return "wrong numbers";
        }
    }
    const double error = error_of_long_sums() * 0x1p23;
    if (error > 6) return "an error of " + std::to_string(error) + " units in the last place";
    // Adding 1 to 2^30 has no effect in float32, so the order of the sum is visible.
    constexpr float kLarge = 1 << 30;
    if (in_order(1, kLarge, -kLarge) != 0) return "wrong order";
    if (in_order(kLarge, -kLarge, 1) != 1) return "wrong order";
    return "right";
}

}  // namespace

int main() {
    try {
        std::puts(said().c_str());
    } catch (const std::exception& e) {
        std::printf("error: %s\n", e.what());
    }
}
