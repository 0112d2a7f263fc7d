// The sum of the exponentials of a row that is processed a tile at a time.
#pragma once

#include "core/tile.cuh"

namespace byhand {

// A running maximum, and the sum of exponentials relative to it (Milakov and Gimelshein 2018,
// "Online normalizer calculation for softmax", algorithm 3): of a thread's elements, then of the
// whole row.
template <class T>
struct Exponentials {
    float top = -infinity(), sum = 0.0f;

    // While every element is -inf, the base is 0, because -inf - -inf is NaN.
    BYHAND_DEVICE float base() const { return top == -infinity() ? 0.0f : top; }

    BYHAND_DEVICE void raise(float to) {
        const float before = top;
        top = to;
        sum *= exp_for<T>(before - base());
    }
    template <class P>
    BYHAND_DEVICE void add(Tile<P>& z) {
        float highest = top;
        z.each([&](float v, int, int) { highest = fmaxf(highest, v); });
        raise(highest);
        const float shift = base();
        z.each([&](float v, int, int) { sum += exp_for<T>(v - shift); });
    }
    // Combines the threads of a team.
    template <class Team>
    BYHAND_DEVICE void join(Team& team) {
        raise(team.max(top));
        sum = team.sum(sum);
    }
    // The same, and sums `total` over the team with the same barrier.
    template <class Team>
    BYHAND_DEVICE void join(Team& team, float& total) {
        raise(team.max(top));
        team.sum(sum, total);
    }
};

}  // namespace byhand
