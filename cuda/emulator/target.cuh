// core/cuda.cuh for the CPU. Operations that CUDA leaves undefined are errors here that name the
// kernel, the source line, the block and the threads.
#pragma once

#include <cstring>
#include <tuple>

#include "emulator/bfloat16.h"
#include "emulator/block.h"
#include "emulator/tensor.h"

// --- The language ------------------------------------------------------------------------------

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__

#define BYHAND_DEVICE inline

#define threadIdx (::byhand::emulator::running->thread)
#define blockIdx (::byhand::emulator::running->block->index())
#define blockDim (::byhand::emulator::running->block->launch().block)
#define gridDim (::byhand::emulator::running->block->launch().grid)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// A shared variable of the block, placed by the first thread that reaches the declaration.
#define BYHAND_SHARED(type, name)                                  \
    static constexpr ::byhand::emulator::SharedSite name##_site{   \
        #name, {__FILE__, __LINE__}, sizeof(type), alignof(type)}; \
    auto& name =                                                   \
        *static_cast<::byhand::emulator::Itself<type>*>(::byhand::emulator::shared(name##_site))
#define BYHAND_DYNAMIC_SHARED(name) unsigned char* const name = ::byhand::emulator::dynamic_shared()

namespace byhand {
namespace emulator {

template <class T>
using Itself = T;

inline Block& block() { return *running->block; }
void* shared(const SharedSite& site);
unsigned char* dynamic_shared(Where where = Where::here());

template <class V>
struct Value {
    V in, out;
    int lane;  // whose value this lane reads
};

// Every lane gets the value of the lane that it names.
template <class V>
V exchange(const char* what, V value, int lane, unsigned mask, Where where) {
    const Quiet quiet;
    Value<V> mine = {value, value, lane};
    if (lane < 0 || lane >= 32 || (mask >> lane & 1) == 0) {
        block().fail(what, where,
                     "reads lane " + std::to_string(lane) + ", which is not in the mask");
    }
    if (void* const* lanes = block().meet(what, mask, &mine, where)) {
        for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
            auto& each = *static_cast<Value<V>*>(lanes[__builtin_ctz(rest)]);
            each.out = static_cast<Value<V>*>(lanes[each.lane])->in;
        }
    }
    return mine.out;
}

// Every lane gets the set of lanes for which agree(its value, the lane's) holds.
template <class V, class F>
unsigned vote(const char* what, V value, unsigned mask, Where where, F agree) {
    const Quiet quiet;
    struct Vote {
        V in;
        unsigned out;
    } mine = {value, 0};
    if (void* const* lanes = block().meet(what, mask, &mine, where)) {
        for (unsigned a = mask; a != 0; a &= a - 1) {
            auto& each = *static_cast<Vote*>(lanes[__builtin_ctz(a)]);
            for (unsigned b = mask; b != 0; b &= b - 1) {
                const int lane = __builtin_ctz(b);
                if (agree(each.in, static_cast<Vote*>(lanes[lane])->in)) each.out |= 1u << lane;
            }
        }
    }
    return mine.out;
}

void require_aligned(const char* what, const void* p, Where where);
void require_global(const char* what, const void* p, Where where);

}  // namespace emulator

using std::max;
using std::min;

// --- Numbers -----------------------------------------------------------------------------------

using emulator::bf16;
using emulator::bits_of;
using emulator::float_of;
using emulator::pack_bf16;
using emulator::to_bf16;
using emulator::to_float;

inline int count_bits(unsigned bits) { return __builtin_popcount(bits); }
inline float fast_exp2(float x) {
    const float y = exp2f(x);
    return y < std::numeric_limits<float>::min() ? 0.0f : y;
}
inline float fast_exp(float x) { return fast_exp2(x * 1.44269504f); }

inline void forget(unsigned&) {}

// --- Threads -----------------------------------------------------------------------------------

using emulator::Where;

inline void sync_block(Where where = Where::here()) {
    emulator::block().barrier("sync_block", where);
}
inline void sync_warp(unsigned mask = kWholeWarp, Where where = Where::here()) {
    const emulator::Quiet quiet;
    emulator::block().meet("sync_warp", mask, nullptr, where, true);
}
inline void sync_named(int id, int threads, Where where = Where::here()) {
    emulator::block().named_barrier(id, threads, "sync_named", where, true);
}
inline void arrive_named(int id, int threads, Where where = Where::here()) {
    emulator::block().named_barrier(id, threads, "arrive_named", where, false);
}

template <class V>
V shuffle(V value, int lane, unsigned mask = kWholeWarp, Where where = Where::here()) {
    return emulator::exchange("shuffle", value, lane & 31, mask, where);
}
template <class V>
V shuffle_xor(V value, int lanes, unsigned mask = kWholeWarp, Where where = Where::here()) {
    const int lane = static_cast<int>(emulator::running->lane());
    return emulator::exchange("shuffle_xor", value, lane ^ lanes, mask, where);
}
template <class V>
V shuffle_down(V value, int lanes, unsigned mask = kWholeWarp, Where where = Where::here()) {
    const int lane = static_cast<int>(emulator::running->lane());
    const int from = lane + lanes < 32 ? lane + lanes : lane;  // beyond the warp: its own value
    return emulator::exchange("shuffle_down", value, from, mask, where);
}
inline unsigned lanes_where(bool p, unsigned mask = kWholeWarp, Where where = Where::here()) {
    return emulator::vote("lanes_where", p, mask, where, [](bool, bool other) { return other; });
}
inline bool any_lane(bool p, unsigned mask = kWholeWarp, Where where = Where::here()) {
    return emulator::vote("any_lane", p, mask, where, [](bool, bool other) { return other; }) != 0;
}
inline bool all_lanes(bool p, unsigned mask = kWholeWarp, Where where = Where::here()) {
    return emulator::vote("all_lanes", p, mask, where, [](bool, bool other) { return other; }) ==
           mask;
}
template <class V>
unsigned match_any(V value, unsigned mask = kWholeWarp, Where where = Where::here()) {
    return emulator::vote("match_any", value, mask, where, [](const V& a, const V& b) {
        return std::memcmp(&a, &b, sizeof(V)) == 0;  // compares bits, as the hardware does
    });
}

// Real atomics, because blocks run on several threads. As on the GPU, they do not order other
// accesses.
template <class V, class F>
V atomic_update(V* p, F f) {
    V old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do {
        next = f(old);
    } while (!__atomic_compare_exchange(p, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class V>
V atomic_add(V* p, V value) {
    return atomic_update(p, [=](V old) { return static_cast<V>(old + value); });
}
template <class V>
V atomic_max(V* p, V value) {
    return atomic_update(p, [=](V old) { return old < value ? value : old; });
}
template <class V>
V atomic_cas(V* p, V expected, V value) {
    return atomic_update(p, [=](V old) { return old == expected ? value : old; });
}

// --- Memory ------------------------------------------------------------------------------------

inline uint4 load16(const void* p, Where where = Where::here()) {
    emulator::require_aligned("load16", p, where);
    return *static_cast<const uint4*>(p);
}
inline void store16(void* p, uint4 value, Where where = Where::here()) {
    emulator::require_aligned("store16", p, where);
    *static_cast<uint4*>(p) = value;
}
inline void store16_global(void* p, uint4 value, Where where = Where::here()) {
    emulator::require_global("store16_global", p, where);
    store16(p, value, where);
}

inline void copy_async16(void* shared, const void* global, bool whole = true,
                         Where where = Where::here()) {
    emulator::copy_async16(shared, global, whole, where);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kOpen>
void copy_async_wait() {
    emulator::copy_async_wait(kOpen);
}

// --- Tensor cores ------------------------------------------------------------------------------

inline void ldmatrix_x4(unsigned (&r)[4], const void* row, Where where = Where::here()) {
    emulator::ldmatrix("ldmatrix_x4", r, 4, row, false, where);
}
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row, Where where = Where::here()) {
    emulator::ldmatrix("ldmatrix_x4_trans", r, 4, row, true, where);
}
inline void ldmatrix_x2(unsigned (&r)[2], const void* row, Where where = Where::here()) {
    emulator::ldmatrix("ldmatrix_x2", r, 2, row, false, where);
}
inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* row, Where where = Where::here()) {
    emulator::ldmatrix("ldmatrix_x2_trans", r, 2, row, true, where);
}
inline unsigned to_tf32(float x) { return emulator::to_tf32(x); }
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                     Where where = Where::here()) {
    emulator::mma_bf16(d, a, b, where);
}
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                     Where where = Where::here()) {
    emulator::mma_tf32(d, a, b, where);
}

// --- Launch ------------------------------------------------------------------------------------

inline int most_shared_bytes() { return static_cast<int>(emulator::SharedMemory::kMax); }

// A small number, so that even with small arrays every block makes several rounds.
template <class... P>
int64_t resident_blocks(const char*, void (*)(P...), dim3, int = 0) {
    return 2;
}

template <class... P, class... A>
void launch_shared(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int bytes, Stream,
                   A... arguments) {
    using Call = std::tuple<void (*)(P...), std::tuple<P...>>;
    const Call call(kernel, std::tuple<P...>(static_cast<P>(arguments)...));
    const auto body = [](const void* context) {
        const auto& [kernel, arguments] = *static_cast<const Call*>(context);
        std::apply(kernel, arguments);
    };
    emulator::run_grid({name, body, &call}, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z},
                       bytes);
}

}  // namespace byhand
