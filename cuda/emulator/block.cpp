#include "emulator/block.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "emulator/hopper.h"
#include "emulator/report.h"

namespace byhand::emulator {

__thread Fiber* running = nullptr;

namespace {

bool same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool same(const Where& a, const Where& b) { return a.line == b.line && same(a.file, b.file); }

}  // namespace

// --- Sets of threads ---------------------------------------------------------------------------

void Block::Queue::add(unsigned thread) { add(thread / 32, 1u << thread % 32); }

void Block::Queue::add(unsigned warp, unsigned mask) {
    lanes[warp] |= mask;
    if (mask != 0) warps |= 1u << warp;
}

void Block::Queue::remove(unsigned thread) {
    unsigned& warp = lanes[thread / 32];
    warp &= ~(1u << thread % 32);
    if (warp == 0) warps &= ~(1u << thread / 32);
}

void Block::Queue::move_to(Queue& other) {
    for (; warps != 0; warps &= warps - 1) {
        const int warp = __builtin_ctz(warps);
        other.add(static_cast<unsigned>(warp), lanes[warp]);
        lanes[warp] = 0;
    }
}

int Block::Queue::first(unsigned from) const {
    if (from >= kMaxThreads) return -1;
    const unsigned warp = from / 32;
    if (const unsigned here = lanes[warp] & (~0u << from % 32)) {
        return static_cast<int>(warp * 32) + __builtin_ctz(here);
    }
    const unsigned after = warp == 31 ? 0 : warps & (~0u << (warp + 1));
    if (after == 0) return -1;
    const int next = __builtin_ctz(after);
    return next * 32 + __builtin_ctz(lanes[next]);
}

int Block::Queue::last(unsigned to) const {
    const unsigned warp = to / 32;
    if (const unsigned here = lanes[warp] & (~0u >> (31 - to % 32))) {
        return static_cast<int>(warp * 32) + 31 - __builtin_clz(here);
    }
    const unsigned before = warps & ((1u << warp) - 1);
    if (before == 0) return -1;
    const int next = 31 - __builtin_clz(before);
    return next * 32 + 31 - __builtin_clz(lanes[next]);
}

// --- Running a block ---------------------------------------------------------------------------

Block::Block() : hopper_(std::make_unique<Hopper>(*this)) {}
Block::~Block() = default;

void Block::run(Launch& launch, std::uint64_t index) {
    {
        const Quiet quiet;
        begin(launch, index);
        Fiber* const first = next();
        start(*first);
        running = first;
        Context::switch_to(home_, first->context);
        running = nullptr;
        end();
    }
    if (!error_.empty()) throw std::runtime_error(error_);
}

void Block::begin(Launch& launch, std::uint64_t index) {
    ++turn_;
    launch_ = &launch;
    const Extent grid = launch.grid, block = launch.block;
    index_ = {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
              static_cast<unsigned>(index / grid.x / grid.y)};
    threads_ = live_ = launch.threads();
    random_ = Random(launch.schedule.seed * 1000003 + index);
    error_.clear();
    home_.adopt();
    while (fibers_.size() < threads_) {
        fibers_.push_back(std::make_unique<Fiber>());
        fibers_.back()->context.create();
    }
    ready_ = {};
    for (unsigned i = 0; i < threads_; ++i) {
        Fiber& fiber = *fibers_[i];
        fiber.block = this;
        fiber.index = i;
        fiber.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        fiber.started = fiber.ended = false;
        fiber.copies.clear();
        fiber.groups.clear();
        ready_.add(i);
    }
    // As if the thread before the first one had just run.
    switch (launch.schedule.order) {
        case Order::warp_greedy:
            cursor_ = 31;
            break;
        case Order::reverse:
            cursor_ = 0;
            break;
        case Order::warp_greedy_reverse:
            cursor_ = (threads_ - 1) / 32 * 32;
            break;
        default:
            cursor_ = threads_ - 1;
    }
    for (Barrier& barrier : barriers_) {
        barrier.arrived = 0;
        barrier.waiting = {};
    }
    meetings_.resize(std::max<std::size_t>(meetings_.size(), (threads_ + 31) / 32 * kMeetings));
    for (Meeting& meeting : meetings_) meeting.arrived = 0;
    shared_.begin(launch.dynamic_bytes);
    hopper_->begin((threads_ + 31) / 32);
}

void Block::end() {
    if (error_.empty()) {
        if (const std::string open = hopper_->left_open(); !open.empty()) {
            error_ = std::string(launch_->kernel.name) + ": the end of the kernel: " + open + "; " +
                     text(index_);
        }
    }
    if (error_.empty()) {
        if (const std::string damage = shared_.damage(); !damage.empty()) {
            error_ = std::string(launch_->kernel.name) + ": " + damage + "; " + text(index_);
        }
    }
    shared_.end();
}

// The fiber that runs next; null if no fiber is ready. The running fiber is a candidate if it is
// ready.
Fiber* Block::next() {
    if (ready_.empty()) return nullptr;
    int found = -1;
    const unsigned warp = cursor_ / 32, lanes = ready_.lanes[warp];
    switch (launch_->schedule.order) {
        case Order::forward:
            found = ready_.first(cursor_ + 1);
            break;
        case Order::reverse:
            found = ready_.last(cursor_ == 0 ? kMaxThreads - 1 : cursor_ - 1);
            break;
        case Order::random:
            found = ready_.first(random_.below(threads_));
            break;
        case Order::warp_greedy:
            if (lanes != 0) {
                const unsigned after = lanes & ~(~0u >> (31 - cursor_ % 32));
                found = static_cast<int>(warp * 32) + __builtin_ctz(after != 0 ? after : lanes);
            }
            break;
        case Order::warp_greedy_reverse:
            if (lanes != 0) {
                const unsigned before = lanes & ((1u << cursor_ % 32) - 1);
                found =
                    static_cast<int>(warp * 32) + 31 - __builtin_clz(before != 0 ? before : lanes);
            } else {
                found = ready_.last(kMaxThreads - 1);
            }
            break;
    }
    if (found < 0) {  // no ready thread up to the end: search from the other end
        found = launch_->schedule.order == Order::reverse ? ready_.last(kMaxThreads - 1)
                                                          : ready_.first(0);
    }
    cursor_ = static_cast<unsigned>(found);
    return fibers_[cursor_].get();
}

void Block::start(Fiber& fiber) {
    if (fiber.started) return;
    fiber.started = true;
    if (!fiber.stack) fiber.stack = stacks_.take();
    fiber.context.start_on(*fiber.stack, &Block::entry);
}

BYHAND_NO_TSAN void Block::entry() {
    Context::arrived();
    Fiber& self = *running;
    Block& block = *self.block;
    block.launch_->begin.acquire();
    block.ended_[block.turn_ % 2].acquire();
    try {
        const Kernel& kernel = block.launch_->kernel;
        kernel.call(kernel.arguments);
        if (!self.copies.empty()) {
            block.fail("the end of the kernel", {}, "copy_async16 was not waited for");
        }
        block.hopper().require_no_products(self.warp());
    } catch (const Unwind&) {
    } catch (const std::exception& error) {
        const Quiet quiet;
        block.refuse("the kernel", {}, error.what());
    }
    block.ended_[(block.turn_ + 1) % 2].release();
    block.launch_->end.release();
    block.leave();
}

BYHAND_NO_TSAN void Block::leave() {
    Context *from = nullptr, *to = &home_;
    {
        const Quiet quiet;
        Fiber& self = *running;
        self.ended = true;
        --live_;
        ready_.remove(self.index);
        if (!BYHAND_TSAN) {  // ThreadSanitizer would report the reuse of the stack as a race
            if (last_stack_) stacks_.give(std::move(last_stack_));
            last_stack_ = std::move(self.stack);
        }
        from = &self.context;
        if (live_ > 0) to = &go_on()->context;
    }
    Context::switch_to(*from, *to, true);
    std::abort();  // a fiber that has ended is never resumed
}

void Block::wait(const char* what, Where where) {
    Fiber* const self = running;
    self->what = what;
    self->where = where;
    ready_.remove(self->index);
    Fiber* const to = go_on();
    if (to != self) Context::switch_to(self->context, to->context);
    if (!error_.empty()) throw Unwind{};
}

void Block::wait_in(Queue& queue, const char* what, Where where) {
    queue.add(running->index);
    wait(what, where);
}

// Chooses the next fiber and gives it a stack if it has not started yet.
Fiber* Block::go_on() {
    Fiber* to = next();
    if (to == nullptr) {
        error_ = stuck();
        give_up();
        to = next();
    }
    start(*to);
    running = to;
    return to;
}

// --- Errors ------------------------------------------------------------------------------------

// Fibers that have started are resumed, wherever they wait, to unwind their stacks; the others are
// never started.
void Block::give_up() {
    for (unsigned i = 0; i < threads_; ++i) {
        Fiber& fiber = *fibers_[i];
        if (fiber.ended) continue;
        if (fiber.started) {
            ready_.add(i);
        } else {
            ready_.remove(i);
            fiber.ended = true;
            --live_;
        }
    }
}

void Block::refuse(const char* what, Where where, const std::string& why) {
    if (!error_.empty()) return;
    error_ = std::string(launch_->kernel.name) + ": " + text(what, where) + ": " + why + "; " +
             text(index_) + ", thread (" + list(running->thread) + ")";
    give_up();
}

void Block::fail(const char* what, Where where, const std::string& why) {
    const Quiet quiet;
    refuse(what, where, why);
    throw Unwind{};
}

std::string Block::stuck() const {
    Waits waits;
    for (unsigned i = 0; i < threads_; ++i) {
        const Fiber& fiber = *fibers_[i];
        if (fiber.ended) {
            waits.ended(i);
        } else {
            waits.at(text(fiber.what, fiber.where), i);
        }
    }
    return std::string(launch_->kernel.name) + ": " + text(index_) +
           " cannot go on: " + waits.text();
}

// --- Barriers and exchanges --------------------------------------------------------------------

void Block::barrier(int id, unsigned threads, const char* what, Where where, bool waits) {
    const Quiet quiet;
    Barrier& b = barriers_[id];
    if (b.arrived == 0) {
        b.expected = threads;
        b.where = where;
    } else if (b.expected != threads) {
        fail(what, where,
             "expects " + std::to_string(threads) + " threads, the ones that came before expect " +
                 std::to_string(b.expected));
    } else if (id == 0 && !same(b.where, where)) {
        fail(what, where, "other threads of the block are at " + text(what, b.where));
    }
    Edge& edge = b.edge[b.turn % 2];
    edge.release();
    if (++b.arrived == b.expected) {
        b.arrived = 0;
        ++b.turn;
        b.waiting.move_to(ready_);
    } else if (waits) {
        b.waiting.add(running->index);
        wait(what, where);
    }
    if (waits) edge.acquire();
}

void Block::named_barrier(int id, int threads, const char* what, Where where, bool waits) {
    const unsigned whole = (threads_ + 31) / 32 * 32;
    if (id < 1 || id > 15) {
        fail(what, where, "the barrier must be 1 to 15, got " + std::to_string(id));
    }
    if (threads < 32 || threads % 32 != 0 || static_cast<unsigned>(threads) > whole) {
        fail(what, where,
             "the number of threads must be a multiple of 32 up to the block's " +
                 std::to_string(whole) + ", got " + std::to_string(threads));
    }
    barrier(id, static_cast<unsigned>(threads), what, where, waits);
}

void* const* Block::meet(const char* what, unsigned mask, void* mine, Where where, bool order) {
    const unsigned warp = running->warp(), lane = running->lane(), bit = 1u << lane;
    const unsigned left = threads_ - warp * 32, there = left >= 32 ? ~0u : (1u << left) - 1;
    if ((mask & bit) == 0) fail(what, where, "the calling lane is not in its own mask");
    if ((mask & ~there) != 0) {
        fail(what, where,
             "the mask names lanes that the block does not have: its last warp has " +
                 std::to_string(left));
    }
    Meeting* const first = &meetings_[warp * kMeetings];
    Meeting* m = nullptr;
    for (Meeting* each = first; each != first + kMeetings; ++each) {
        if (each->arrived == 0) {
            if (m == nullptr) m = each;
        } else if (each->mask == mask) {
            m = each;
            break;
        }
    }
    if (m == nullptr) fail(what, where, "too many parts of one warp meet at the same time");
    if (m->arrived == 0) {
        m->mask = mask;
        m->what = what;
        m->where = where;
    } else if (!same(m->what, what) || !same(m->where, where)) {
        fail(what, where, "other lanes of the warp are at " + text(m->what, m->where));
    }
    Edge& edge = m->edge[m->turn % 2];
    if (order) edge.release();
    m->lanes[lane] = mine;
    m->arrived |= bit;
    if (m->arrived == mask) {
        m->arrived = 0;
        ++m->turn;
        ready_.add(warp, mask);
        if (order) edge.acquire();
        return m->lanes;
    }
    wait(what, where);
    if (order) edge.acquire();
    return nullptr;
}

}  // namespace byhand::emulator
