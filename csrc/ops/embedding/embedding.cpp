#include "ops/embedding/embedding.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <utility>

#include "core/cache.h"
#include "core/ids.h"
#include "core/rows.h"

namespace byhand {
namespace {

// How many rows ahead of the current one a row is prefetched.
constexpr std::int64_t kAhead = 4;

// Whether a table is larger than the second-level cache.
bool far_away(const Array& table) {
    return table.size() * std::int64_t{sizeof(float)} > second_level_cache();
}

// y = scale * w + add; prefetches the row at `next`.
void copy_row(float* y, const float* w, const float* add, Vec scale, const float* next,
              std::int64_t n, Into place) {
    write_words(y, n, place, [=](std::int64_t i, std::int64_t lanes) {
        if (next) __builtin_prefetch(next + i);
        const Vec row = scale * Vec::load(w + i, lanes);
        return add ? row + Vec::load(add + i, lanes) : row;
    });
}

// The rows 0 .. rows-1 grouped by id, ascending within an id: a stable radix sort (Knuth, "The Art
// of Computer Programming", volume 3, algorithm 5.2.5R), a byte at a time. The result is in the
// calling thread's scratch memory.
const std::int64_t* sort_by_id(const std::int64_t* id, std::int64_t rows, std::int64_t limit) {
    constexpr std::size_t kFloats = sizeof(std::int64_t) / sizeof(float);
    const auto count = static_cast<std::size_t>(rows);
    auto* order = new (scratch(kFloats * 2 * count)) std::int64_t[2 * count];
    std::int64_t* spare = order + rows;
    std::iota(order, order + rows, std::int64_t{0});
    for (int shift = 0; (limit - 1) >> shift > 0; shift += 8) {
        const auto digit = [=](std::int64_t r) { return id[r] >> shift & 255; };
        std::int64_t place[257] = {};  // where the next row with each digit is written
        for (std::int64_t r = 0; r < rows; ++r) ++place[digit(r) + 1];
        std::partial_sum(place, place + 256, place);
        for (std::int64_t i = 0; i < rows; ++i) spare[place[digit(order[i])]++] = order[i];
        std::swap(order, spare);
    }
    return order;
}

// The sums of embedding_backward: adds rows of scale * dy, sorted by id, to the rows of dw with
// these ids.
struct RowsToAdd {
    float* dw;
    const float* dy;
    const std::int64_t* id;
    const std::int64_t* order;
    std::int64_t rows, cols;
    float scale;
    bool far;  // far_away(dw)

    static constexpr int kWords = 8;  // words of a row of dw that are held in registers

    // The end of the run of equal ids that place p belongs to.
    std::int64_t end_of_run(std::int64_t p) const {
        const std::int64_t mine = id[order[p]];
        while (p < rows && id[order[p]] == mine) ++p;
        return p;
    }

    // The first run that begins at place p or later.
    std::int64_t border(std::int64_t p) const {
        return p == 0 || p == rows ? p : end_of_run(p - 1);
    }

    std::int64_t longest_run() const {
        std::int64_t longest = 0;
        for (std::int64_t p = 0, end = 0; p < rows; p = end) {
            end = end_of_run(p);
            longest = std::max(longest, end - p);
        }
        return longest;
    }

    // Adds the runs in places [begin, end), columns [first, last).
    void add(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last) const {
        constexpr std::int64_t w = Vec::width;
        for (std::int64_t p = begin, stop = begin; p < end; p = stop) {
            stop = end_of_run(p);
            std::int64_t c = first;
            for (; c + kWords * w <= last; c += kWords * w) add_run<kWords>(p, stop, c, w);
            for (; c < last; c += w) add_run<1>(p, stop, c, last - c);
        }
    }

  private:
    // Adds a run of one id: its row of dw is read once and written once.
    template <int words>
    BYHAND_FLATTEN void add_run(std::int64_t begin, std::int64_t end, std::int64_t column,
                                std::int64_t lanes) const {
        constexpr std::int64_t w = Vec::width;
        float* const to = dw + id[order[begin]] * cols + column;
        Vec sum[words];
        BYHAND_UNROLL
        for (int k = 0; k < words; ++k) sum[k] = Vec::load(to + k * w, lanes);
        for (std::int64_t p = begin; p < end; ++p) {
            const std::int64_t later = order[std::min(p + kAhead, rows - 1)];
            const float *const from = dy + order[p] * cols + column,
                               *const next = dy + later * cols + column,
                               *const next_to = dw + id[later] * cols + column;
            BYHAND_UNROLL
            for (int k = 0; k < words; ++k) {
                __builtin_prefetch(next + k * w, 0);
                if (far) __builtin_prefetch(next_to + k * w, 1);
                sum[k] += Vec::set(scale) * Vec::load(from + k * w, lanes);
            }
        }
        BYHAND_UNROLL
        for (int k = 0; k < words; ++k) sum[k].store(to + k * w, lanes);
    }
};

}  // namespace

void embedding_forward(Out y, In w, In ids, Maybe<In> add, double scale, Stream) {
    const float *const wp = w.as<float>(), *const addp = add.as<float>();
    const std::int64_t* const id = ids.as<std::int64_t>();
    float* const yp = y.as<float>();
    const std::int64_t cols = w.cols();
    require_ids(ids, w.rows());
    const std::int64_t rows = ids.size();
    const bool far = far_away(w);
    const Into place = place_for(yp, y.size(), {wp, addp});
    const float factor = static_cast<float>(scale);
    for_rows(rows, cols, [=](std::int64_t r) {
        const float* const next = far ? wp + id[std::min(r + kAhead, rows - 1)] * cols : nullptr;
        copy_row(yp + r * cols, wp + id[r] * cols, addp ? addp + r * cols : nullptr,
                 Vec::set(factor), next, cols, place);
    });
}

// Gradients are added to each row of dw in ascending order of r, whatever the number of threads:
// the ids are divided among the threads, or the columns when one id has too many rows.
void embedding_backward(Acc dw, Out, In dy, In ids, double scale, Stream) {
    if (!dw) return;
    const std::int64_t rows = ids.size(), cols = dw.cols();
    const std::int64_t* const id = ids.as<std::int64_t>();
    require_ids(ids, dw.rows());
    const RowsToAdd todo{dw.as<float>(),
                         dy.as<float>(),
                         id,
                         sort_by_id(id, rows, dw.rows()),
                         rows,
                         cols,
                         static_cast<float>(scale),
                         far_away(dw)};
    if (todo.longest_run() * num_threads() <= rows) {
        parallel_for(rows, grain_of(cols), [=](std::int64_t begin, std::int64_t end) {
            todo.add(todo.border(begin), todo.border(end), 0, cols);
        });
        return;
    }
    // Whole cache lines, so that threads never share one.
    const std::int64_t lines = (cols + kLineFloats - 1) / kLineFloats;
    parallel_for(lines, grain_of(rows * kLineFloats), [=](std::int64_t begin, std::int64_t end) {
        todo.add(0, rows, begin * kLineFloats, std::min(cols, end * kLineFloats));
    });
}

}  // namespace byhand
