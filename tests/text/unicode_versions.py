"""Characters of Unicode 16.0, and those for which the older tables of Hugging Face's tokenizers
0.23 differ: its normal forms are of Unicode 11, its categories of punctuation and marks older.
"""

from __future__ import annotations

import pytest

_OLDER = {
    "punctuation": (
        "61D 9FD A76 C77 C84 166D 1B4E-1B4F 1B7D-1B7F 2E43-2E4F 2E52-2E5D 10D6E 10EAD 10F55-10F59"
        " 10F86-10F89 111C9 113D4-113D8 1144B-1144F 1145A-1145D 11660-1166C 116B9 1183B"
        " 11944-11946 119E2 11A3F-11A46 11A9A-11A9C 11A9E-11AA2 11B00-11B09 11BE1 11C41-11C45"
        " 11C70-11C71 11EF7-11EF8 11F43-11F4F 11FFF 12FF1-12FF2 16D6D-16D6F 16E97-16E9A 16FE2"
        " 1E5FF 1E95E-1E95F"
    ),
    "marks": (
        "7FD 897-89F 8CA-8D3 9FE AFA-AFF B55 C04 C3C CF3-D00 D3B-D3C D81 EBA ECE 1715 180F"
        " 1ABF-1ACE 1CF2-1CF3 1CF7 1DF6-1DFA A82C A8FF 10D24-10D27 10D69-10D6D 10EAB-10EAC"
        " 10EFC-10EFF 10F46-10F50 10F82-10F85 11070 11073-11074 110C2 11145-11146 111C9"
        " 111CE-111CF 11241 1133B 113B8-113D0 113D2 113E1-113E2 1145E 1182C-1183A 11930-1193E"
        " 11940 11942-11943 119D1-119E0 119E4 11A01-11A0A 11A33-11A39 11A3B-11A3E 11A47"
        " 11A51-11A5B 11A8A-11A99 11D31-11D45 11D47 11D8A-11D97 11EF3-11EF6 11F00-11F01 11F03"
        " 11F34-11F42 11F5A 13440 13447-13455 1611E-1612F 16F4F 16F7F-16F87 16FE4-16FF1"
        " 1CF00-1CF46 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 8D4-8E1 1734"
        " 1885-1886 1DFB A8C5 A9BD 1123E 11438-1143F 11442-11444 11446 1171E 11C30-11C3D 11C3F"
        " 11C92-11CA7 11CAA-11CB0 11CB2-11CB3 11CB5-11CB6 1E000-1E02A 1E944-1E94A"
    ),
    "decompositions": (
        "32FF A7F2-A7F4 AB69 105C9 105E4 10781-107BA 11383 11385 1138E 11391 113C5-113C8 11938"
        " 16121-16128 16D68-16D6A 1CCD6-1CCF9 1E030-1E06D 1F16C 1FBF0-1FBF9"
    ),
    "control": "890-891 8E2 110CD 13430-1343F",
}


def _members(ranges: str) -> set[str]:
    found: set[str] = set()
    for one in ranges.split():
        first, _, last = one.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return found


OLDER_TABLES = {what: _members(ranges) for what, ranges in _OLDER.items()}


def assigned() -> list[str]:
    """Every assigned character of Unicode 16.0 but surrogates, and the first for private use."""
    unicodedata = pytest.importorskip("unicodedata2")
    if unicodedata.unidata_version != "16.0.0":
        pytest.skip("unicodedata2 is not of Unicode 16.0")
    characters = map(chr, range(0x110000))
    found = [c for c in characters if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    return [*found, "\ue000"]


# Texts of several scripts, and places where patterns decide.
PIECES = (
    "'s 'S '\u017f 'll 'LL 're 'vE 'm 'd 't ' a B Z é É e\u0301 あ 漢 가 각 ǅ ʰ \u0301 \u0903 1 23"
    " 456 \uff17 ½ ² ! / // ... € 😀 👩‍👧 🇩🇪 क्षि ไทย مرحبا"
    " hello World HELLO iPhone \u017f K İ Σ ﬁ Å _ - $ ▁ ▁▁"
).split() + " |  |\n|\r|\r\n|\t|\xa0|\u2028|\u3000|\x85|\0|\x1c|\u200b|\u200d|\ufeff|\ufffd".split(
    "|"
)
