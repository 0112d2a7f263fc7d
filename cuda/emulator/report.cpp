#include "emulator/report.h"

#include <cstring>

namespace byhand::emulator {
namespace {

// "threads 0-15, 32 and 40-47"; after the first few ranges only the number is given.
std::string threads(const std::vector<unsigned>& indices) {
    constexpr std::size_t kMost = 4;
    std::vector<std::string> ranges;
    for (std::size_t i = 0; i < indices.size();) {
        std::size_t j = i + 1;
        while (j < indices.size() && indices[j] == indices[j - 1] + 1) ++j;
        std::string range = std::to_string(indices[i]);
        if (j - i > 1) range += "-" + std::to_string(indices[j - 1]);
        ranges.push_back(range);
        i = j;
    }
    std::string result = indices.size() == 1 ? "thread " : "threads ";
    for (std::size_t i = 0; i < ranges.size() && i < kMost; ++i) {
        if (i > 0) result += ", ";
        result += ranges[i];
    }
    if (ranges.size() > kMost) result += ", ... (" + std::to_string(indices.size()) + ")";
    return result;
}

}  // namespace

std::string list(Extent extent) {
    return std::to_string(extent.x) + ", " + std::to_string(extent.y) + ", " +
           std::to_string(extent.z);
}

std::string text(Extent block) { return "block (" + list(block) + ")"; }

std::string text(const char* what, Where where) {
    if (where.file == nullptr) return what;
    const char* const slash = std::strrchr(where.file, '/');
    return std::string(what) + " at " + (slash != nullptr ? slash + 1 : where.file) + ":" +
           std::to_string(where.line);
}

std::string Waits::text() const {
    std::string result;
    for (const auto& [place, indices] : waiting_) {
        if (!result.empty()) result += ", ";
        result += threads(indices) + (indices.size() == 1 ? " waits in " : " wait in ") + place;
    }
    if (!ended_.empty()) {
        result += ", " + threads(ended_) + (ended_.size() == 1 ? " has ended" : " have ended");
    }
    return result;
}

}  // namespace byhand::emulator
