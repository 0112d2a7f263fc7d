// A check of ids in the kernels themselves, against reads out of bounds. The public functions in
// Python check too, with a message that gives the position.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "core/array.h"

namespace byhand {

// Throws std::out_of_range, which becomes Python's IndexError, unless every id is in 0..limit-1 or
// is the ignored one.
inline void require_ids(const In& ids, std::int64_t limit,
                        std::optional<std::int64_t> ignored = std::nullopt) {
    const std::int64_t* const values = ids.as<std::int64_t>();
    for (std::int64_t r = 0; r < ids.size(); ++r) {
        const std::int64_t id = values[r];
        if ((id >= 0 && id < limit) || id == ignored) continue;
        throw std::out_of_range(std::string(ids.name) + "[" + std::to_string(r) + "] = " +
                                std::to_string(id) + " is outside 0.." + std::to_string(limit - 1));
    }
}

}  // namespace byhand
