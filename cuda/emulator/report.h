// The text of error messages.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "emulator/block.h"

namespace byhand::emulator {

std::string list(Extent extent);                  // 1, 0, 0
std::string text(Extent block);                   // block (1, 0, 0)
std::string text(const char* what, Where where);  // sync_block at layernorm.cu:40

// Describes what the threads of a block wait for when none of them can run.
class Waits {
  public:
    void at(const std::string& place, unsigned thread) { waiting_[place].push_back(thread); }
    void ended(unsigned thread) { ended_.push_back(thread); }
    std::string text() const;

  private:
    std::map<std::string, std::vector<unsigned>> waiting_;
    std::vector<unsigned> ended_;
};

}  // namespace byhand::emulator
