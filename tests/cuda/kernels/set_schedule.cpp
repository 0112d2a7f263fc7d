// Lets a test library choose its schedule.
#include "emulator/schedule.h"

extern "C" __attribute__((visibility("default"))) void run_schedule(const char* text) {
    byhand::emulator::set_schedule(text);
}
