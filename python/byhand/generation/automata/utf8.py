"""From an automaton over characters to one over the bytes of their UTF-8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from byhand.generation.automata.expressions import Automaton


def over_bytes(automaton: Automaton, of_code: npt.NDArray[np.int32]) -> Automaton:
    """The automaton over bytes, table (S, 256), for one over classes of characters.

    `of_code` (0x110000,) is the class of each code point. The automaton is in one of its first
    states between two characters, with the numbers of the given automaton, and in a further one
    inside a character.

    A character of UTF-8 is a byte below 0x80, or a byte that says how many bytes 0x80..0xBF follow
    (RFC 3629). A state inside a character is the row of states that its next byte leads to, and
    equal rows are one state.
    """
    # Blocks of 64 characters have all bytes but the last in common, groups of 64 blocks (4,096
    # characters) all but the last two. Few blocks are different ones.
    blocks, block = _distinct(of_code.reshape(-1, 64))
    groups, group = _distinct(block.reshape(-1, 64))

    rows: dict[bytes, int] = {}  # of states inside a character, by their 64 next states
    numbered: list[npt.NDArray[np.int32]] = []

    def state(row: npt.NDArray[np.int32]) -> int:
        if not row.any():
            return 0
        key = row.tobytes()
        if key not in rows:
            rows[key] = len(automaton.table) + len(rows)
            numbered.append(row)
        return rows[key]

    first = np.zeros((len(automaton.table), 256), np.int32)
    for number in range(1, len(first)):
        after = automaton.table[number]
        of_block = np.array([state(row) for row in after[blocks]], np.int32)
        of_group = np.array([state(row) for row in of_block[groups]], np.int32)
        first[number, :0x80] = after[of_code[:0x80]]
        first[number, 0xC2:0xE0] = of_block[block[2:32]]
        first[number, 0xE0:0xF0] = of_group[group[:16]]
        # A character has its shortest form only: none below 0x800 has three bytes, and none below
        # 0x10000 four.
        short = of_block[block[:64]].copy()
        short[:32] = 0
        first[number, 0xE0] = state(short)
        long = np.zeros((5, 64), np.int32)
        long.reshape(-1)[16 : len(group)] = of_group[group[16:]]
        first[number, 0xF0:0xF5] = [state(row) for row in long]

    inside = np.zeros((len(rows), 256), np.int32)
    if numbered:
        inside[:, 0x80:0xC0] = numbered
    accepting = np.concatenate([automaton.accepting, np.zeros(len(rows), bool)])
    return Automaton(np.concatenate([first, inside]), accepting, automaton.start)


def _distinct(rows: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The different rows, and the number of each row's equal among them. `np.unique` compares rows
    element by element and is a hundred times slower.
    """
    numbers: dict[bytes, int] = {}
    index = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows]
    made = np.frombuffer(b"".join(numbers), np.int32).reshape(len(numbers), -1)
    return made, np.array(index, np.int32)
