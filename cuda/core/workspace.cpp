#include "core/workspace.h"

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/device.h"
#include "core/slots.h"

namespace byhand {

void refuse_capture(const char* name, const char* what, Stream stream) {
    if (!is_captured(stream)) return;
    throw std::runtime_error(std::string(name) + ": " + what +
                             " is made when it is first needed, which must not be while a CUDA "
                             "graph is captured: run the op on that stream once before");
}

void* workspace_of(const char* name, Stream stream) {
    struct Workspaces {
        std::mutex mutex;
        std::map<std::pair<int, int>, void*> of;
    };
    static auto& workspaces = *new Workspaces;  // never destroyed: CUDA may end before this module
    const std::pair<int, int> place = {current_device(), slot_of(stream)};
    const std::lock_guard<std::mutex> lock(workspaces.mutex);
    const auto found = workspaces.of.find(place);
    if (found != workspaces.of.end()) return found->second;
    refuse_capture(name, "its workspace", stream);
    return workspaces.of[place] = device_memory(name, kWorkspace);
}

}  // namespace byhand
