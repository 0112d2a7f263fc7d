#include "core/tile.cuh"
#include "ops/embedding/embedding.h"

namespace byhand {
namespace {

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    embedding_gather(T* y, const T* w, const int64_t* ids, const T* add, float scale, int64_t rows,
                     int64_t cols, int64_t classes) {
    typename P::Team team;
    for_rows(team, rows, [&](int64_t row, bool here) {
        const int64_t id = here ? ids[row] : 0, end = here ? cols : 0;
        const bool valid = id >= 0 && id < classes;
        const T* from = w + (valid ? id : 0) * cols;
        Tile<P> z, more;
        for_tiles<P>(team, end, [&](int64_t start) {
            z.load(team, from, start, valid ? end : 0, not_a_number());
            z.each([&](float& v, int, int) { v *= scale; });
            if (add != nullptr) {
                more.load(team, add + row * cols, start, end, 0.0f);
                z.each([&](float& v, int k, int j) { v += more.v[k][j]; });
            }
            z.store(team, y + row * cols, start, end);
        });
    });
}

// --- The rows in the order of their ids ----------------------------------------------------------

// A radix sort that starts at the lowest digit. Each pass is stable, so rows of one id end up in
// ascending order, independent of timing: no atomics are needed.
constexpr int kDigitBits = 9, kDigits = 1 << kDigitBits;
constexpr int kSortThreads = 256, kSortWarps = kSortThreads / kWarp;
constexpr int kSortShare = 2048, kMaxShares = 128;  // the fewest rows of a block; the most blocks

struct Ids {
    const int64_t* ids;
    int rows, classes;

    // Invalid ids are mapped to V, so they sort last.
    BYHAND_DEVICE int operator()(int row) const {
        const int64_t id = ids[row];
        return id >= 0 && id < classes ? static_cast<int>(id) : classes;
    }
};

// One pass: sorts rows in the order `from` (null: ascending) by a digit of their ids, to `to`. A
// block has `share` consecutive rows, and each of its warps a consecutive part of them.
struct Pass {
    Ids id;
    const int* from;
    int* to;
    int* counts;  // (blocks, kDigits)
    int shift, share;

    // Calls f(row, digit, rank, same) for the rows of this warp, 32 at a time: `same` of the 32
    // have this digit, `rank` of them before this row.
    template <class F>
    BYHAND_DEVICE void each(F&& f) const {
        const int warp = static_cast<int>(threadIdx.x) / kWarp;
        const int lane = static_cast<int>(threadIdx.x) % kWarp, part = share / kSortWarps;
        const int first = static_cast<int>(blockIdx.x) * share + warp * part;
        const int last = min(id.rows, first + part);
        for (int start = first; start < last; start += kWarp) {
            const int place = start + lane;
            const bool here = place < last;
            const int row = here && from != nullptr ? from[place] : place;
            const int digit = here ? id(row) >> shift & (kDigits - 1) : kDigits;
            const unsigned peers = match_any(digit);
            const int rank = count_bits(peers & ((1u << lane) - 1));
            f(here, row, digit, rank, count_bits(peers));
            sync_warp();
        }
    }
    // counts[w][d] = how many rows of warp w have digit d.
    BYHAND_DEVICE void count(int (&counts)[kSortWarps][kDigits]) const {
        const int rank = static_cast<int>(threadIdx.x);
        for (int i = rank; i < kSortWarps * kDigits; i += kSortThreads)
            counts[i / kDigits][i % kDigits] = 0;
        sync_block();
        each([&](bool here, int, int digit, int before, int same) {
            if (here && before == 0) counts[rank / kWarp][digit] += same;
        });
        sync_block();
    }
};

__global__ void __launch_bounds__(kSortThreads, 1) embedding_count(Pass pass) {
    BYHAND_SHARED(int[kSortWarps][kDigits], counts);
    pass.count(counts);
    for (int d = static_cast<int>(threadIdx.x); d < kDigits; d += kSortThreads) {
        int sum = 0;
        for (int w = 0; w < kSortWarps; ++w) sum += counts[w][d];
        pass.counts[blockIdx.x * kDigits + d] = sum;
    }
}

__global__ void __launch_bounds__(kSortThreads, 1) embedding_sort(Pass pass) {
    BYHAND_SHARED(int[kSortWarps][kDigits], counts);
    BYHAND_SHARED(int[2][kDigits], totals);
    const int rank = static_cast<int>(threadIdx.x), blocks = static_cast<int>(gridDim.x);
    pass.count(counts);
    constexpr int kEach = kDigits / kSortThreads;
    int before[kEach];  // rows of this digit in earlier blocks
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const int d = rank + e * kSortThreads;
        int total = 0;
        before[e] = 0;
        for (int b = 0; b < blocks; ++b) {
            if (b == static_cast<int>(blockIdx.x)) before[e] = total;
            total += pass.counts[b * kDigits + d];
        }
        totals[0][d] = total;
    }
    // totals[0][d] becomes the prefix sum up to d (Hillis and Steele 1986, "Data parallel
    // algorithms").
    int now = 0;
    for (int step = 1; step < kDigits; step *= 2, now ^= 1) {
        sync_block();
        for (int d = rank; d < kDigits; d += kSortThreads)
            totals[now ^ 1][d] = totals[now][d] + (d < step ? 0 : totals[now][d - step]);
    }
    sync_block();
    // counts[w][d] becomes the position of the first row of warp w with digit d.
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
        const int d = rank + e * kSortThreads;
        int place = (d == 0 ? 0 : totals[now][d - 1]) + before[e];
        for (int w = 0; w < kSortWarps; ++w) {
            const int mine = counts[w][d];
            counts[w][d] = place;
            place += mine;
        }
    }
    sync_block();
    pass.each([&](bool here, int row, int digit, int earlier, int same) {
        int& place = counts[rank / kWarp][here ? digit : 0];
        if (here) pass.to[place + earlier] = row;
        sync_warp();
        if (here && earlier == 0) place += same;
    });
}

// --- The sum over the rows of an id --------------------------------------------------------------

// Sorted rows are cut into pieces of this length, each summed in order. If a run of one id began in
// an earlier piece, its sum is stored in `carry`; the block of the piece where the run began adds
// these sums in order.
constexpr int kPiece = 32;
constexpr int kColumnThreads = 256;
constexpr int kAhead = 4;  // rows that a thread loads ahead

struct Scatter {
    float *dw, *carry;  // (classes, cols), (pieces, cols)
    const int* order;
    Ids id;
    int64_t cols;
    float scale;  // of the rows that are added

    BYHAND_DEVICE int id_at(int place) const { return id(order[place]); }
};

template <int V>
BYHAND_DEVICE void add_to(float* p, const float (&v)[V], bool write) {
    constexpr int N = V % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int i = 0; i < V; i += N) {
        float part[N] = {};
        if (!write) load(part, p + i);
#pragma unroll
        for (int j = 0; j < N; ++j) part[j] += v[i + j];
        store(p + i, part);
    }
}

template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads, 1) embedding_add_pieces(Scatter a, const T* dy) {
    const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
    if (column >= a.cols) return;
    const int piece = static_cast<int>(blockIdx.x);
    const int first = piece * kPiece, last = min(a.id.rows, first + kPiece);
    int id = a.id_at(first);
    bool began_here = first == 0 || a.id_at(first - 1) != id;
    float sum[V] = {};
    const auto finish = [&] {
        if (id == a.id.classes) return;
        float* to = began_here ? a.dw + id * a.cols : a.carry + piece * a.cols;
        add_to(to + column, sum, !began_here);
    };
    for (int start = first; start < last; start += kAhead) {
        int ids[kAhead];
        float v[kAhead][V];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const int row = a.order[min(start + u, last - 1)];
            ids[u] = a.id(row);
            load(v[u], dy + row * a.cols + column);
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            if (start + u >= last) break;
            if (ids[u] != id) {
                finish();
                id = ids[u];
                began_here = true;
#pragma unroll
                for (int j = 0; j < V; ++j) sum[j] = 0.0f;
            }
#pragma unroll
            for (int j = 0; j < V; ++j) sum[j] += a.scale * v[u][j];
        }
    }
    finish();
}

constexpr int kSlices = 16;  // slices of the pieces of a run

__global__ void __launch_bounds__(kWarp* kSlices, 1) embedding_add_carries(Scatter a) {
    const int pieces = (a.id.rows + kPiece - 1) / kPiece, piece = static_cast<int>(blockIdx.x);
    // Only blocks of pieces in which a run of several pieces begins have work.
    const int first = piece * kPiece, next = first + kPiece, id = a.id_at(next - 1);
    if (id == a.id.classes || a.id_at(next) != id) return;
    if (a.id_at(first) == id && first > 0 && a.id_at(first - 1) == id) return;
    int low = piece + 1, high = pieces;  // binary search for the last piece of the run
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (a.id_at(middle * kPiece) == id ? low : high) = middle;
    }
    const int64_t column = static_cast<int64_t>(blockIdx.y) * kWarp + threadIdx.x;
    const float sum =
        sum_in_slices<kSlices>(piece + 1, column < a.cols ? low + 1 : piece + 1,
                               [&](int64_t p) { return a.carry[p * a.cols + column]; });
    if (threadIdx.y == 0 && column < a.cols) a.dw[id * a.cols + column] += sum;
}

int bits_needed(int64_t most) {
    int bits = 1;
    while (most >> bits != 0) ++bits;
    return bits;
}

}  // namespace

void embedding_forward(Out y, In w, In ids, Maybe<In> add, double scale, Stream stream) {
    const char* name = "embedding_forward";
    const int64_t rows = ids.size(), cols = w.cols(), classes = w.rows();
    const int64_t* id = ids.as<int64_t>();
    if (rows == 0 || cols == 0) return;
    for_storage(w, [&](auto zero) {
        using T = decltype(zero);
        T* to = y.as<T>();
        const T *from = w.as<T>(), *more = add.as<T>();
        const auto run = [&](auto plan) {
            launch(name, embedding_gather<T, decltype(plan)>,
                   dim3(blocks_for(rows, WarpTeam::kTeams)), dim3(kWarp, WarpTeam::kTeams), stream,
                   to, from, id, more, static_cast<float>(scale), rows, cols, classes);
        };
        if (packable<T>(cols, to, from, more)) {
            run(Plan<kPack<T>, 4, WarpTeam, true>{});
        } else {
            run(Plan<1, 8, WarpTeam, true>{});
        }
    });
}

void embedding_backward(Acc dw, Out work, In dy, In ids, double scale, Stream stream) {
    const char* name = "embedding_backward";
    if (!dw) return;
    const int64_t rows = ids.size(), cols = dw.cols(), classes = dw.rows();
    if (rows == 0 || cols == 0) return;
    const int64_t pieces = (rows + kPiece - 1) / kPiece;
    if (work.size() < 3 * rows + kDigits + cols * pieces) {
        throw std::invalid_argument("embedding_backward: work is too small");
    }
    float *to = dw.as<float>(), *carry = work.as<float>();
    int* const orders = reinterpret_cast<int*>(carry + cols * pieces);
    const Ids id = {ids.as<int64_t>(), checked(name, "rows", rows),
                    checked(name, "classes", classes)};

    const int64_t shares = std::min<int64_t>(kMaxShares, (rows + kSortShare - 1) / kSortShare);
    const int64_t each = (rows + shares - 1) / shares;
    const int share = static_cast<int>((each + kSortThreads - 1) / kSortThreads * kSortThreads);
    const dim3 blocks(static_cast<unsigned>((rows + share - 1) / share));
    Pass pass = {id, nullptr, orders, orders + 2 * rows, 0, share};
    for (const int bits = bits_needed(classes); pass.shift < bits; pass.shift += kDigitBits) {
        launch(name, embedding_count, blocks, dim3(kSortThreads), stream, pass);
        launch(name, embedding_sort, blocks, dim3(kSortThreads), stream, pass);
        pass.from = pass.to;
        pass.to = pass.to == orders ? orders + rows : orders;
    }
    const Scatter a = {to, carry, pass.from, id, cols, static_cast<float>(scale)};
    for_storage(dy, [&](auto zero) {
        using T = decltype(zero);
        const T* from = dy.as<T>();
        const auto run = [&](auto v) {
            constexpr int V = decltype(v)::value;
            const int64_t packs = cols / V, most = kColumnThreads;
            const int64_t threads = std::min(most, (packs + kWarp - 1) / kWarp * kWarp);
            const dim3 grid(static_cast<unsigned>(pieces),
                            static_cast<unsigned>((packs + threads - 1) / threads));
            launch(name, embedding_add_pieces<T, V>, grid, dim3(static_cast<unsigned>(threads)),
                   stream, a, from);
        };
        if (packable<T>(cols, to, carry, from)) {
            run(std::integral_constant<int, kPack<T>>{});
        } else {
            run(std::integral_constant<int, 1>{});
        }
    });
    if (pieces > 1) {
        const dim3 grid(static_cast<unsigned>(pieces - 1),
                        static_cast<unsigned>((cols + kWarp - 1) / kWarp));
        launch(name, embedding_add_carries, grid, dim3(kWarp, kSlices), stream, a);
    }
}

}  // namespace byhand
