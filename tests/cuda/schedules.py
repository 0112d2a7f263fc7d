"""The orders in which blocks are run on the CPU: each finds bugs that the others do not."""

from __future__ import annotations

SCHEDULES = (
    "forward late",
    "reverse early",
    "random:1 late",
    "random:2 early",
    "warp-greedy late",
    "warp-greedy-reverse early",
)
