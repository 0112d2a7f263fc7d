// A loop over blocks of rows, for kernels whose work array holds only some rows at a time.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/array.h"

namespace byhand {

// Calls body(begin, rows) for consecutive blocks of R rows. `room` has one row for each row of a
// block; the blocks are as few as that allows and their sizes differ by at most one.
template <class Body>
void for_row_blocks(std::int64_t R, const Array& room, Body&& body) {
    const std::int64_t most = room.rows();
    if (most < 1)
        throw std::invalid_argument(std::string(room.name) + " must have at least one row");
    const std::int64_t blocks = (R + most - 1) / most;
    for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t begin = R * b / blocks;
        body(begin, R * (b + 1) / blocks - begin);
    }
}

}  // namespace byhand
