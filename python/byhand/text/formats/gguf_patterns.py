"""The patterns that divide the text of byte-level BPE in GGUF files, by the names that llama.cpp
gives them (`tokenizer.ggml.pre`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from byhand.errors import UserError, suggestion


@dataclass(frozen=True)
class Words:
    """How a text is divided: regular expressions, one after the other, or names of PATTERNS.

    Attributes:
        ignore_merges: a word that is a token is taken as it is, without merging.
        add_bos: the token for the beginning comes before a text, unless the file says otherwise.
        add_sep: the separator comes after a text, unless the file says otherwise.
    """

    patterns: Sequence[str]
    ignore_merges: bool = False
    add_bos: bool = False
    add_sep: bool = False


_NEWLINES = r"[\r\n]"
_DIGIT = r"\p{N}"
_THREE_DIGITS = r"[0-9][0-9][0-9]"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
# Letters with two cases, as DeepSeek's tokenizer lists them.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_JAPANESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_LLAMA3 = Words(["llama3"], ignore_merges=True, add_bos=True)
_QWEN2 = Words(["qwen2"])
_GPT2 = Words(["gpt2"])
_DIGITS_GPT2 = Words([_DIGIT, "gpt2"])
_GPT4O = Words(["o200k"])

_KINDS: dict[str, Words] = {
    "default": Words([_PUNCTUATION.replace("`", ""), "gpt2", r"\p{N}+", _THREE_DIGITS]),
    "falcon": Words([_PUNCTUATION, "gpt2", _THREE_DIGITS]),
    "roberta-bpe": Words(["gpt2"], add_sep=True),
    "dbrx": Words(["llama3"]),
    "smaug-bpe": Words(["llama3"]),
    "chatglm-bpe": Words(["llama3"]),
    "glm4": Words(["llama3"], ignore_merges=True),
    "qwen35": Words([_QWEN35]),
    "tekken": Words([_TEKKEN], ignore_merges=True, add_bos=True),
    "bloom": Words([_BLOOM]),
    "poro-chat": Words([_BLOOM]),
    "gpt3-finnish": Words([_BLOOM]),
    "viking": Words([_BLOOM, _DIGIT]),
    "deepseek-v3": Words([r"\p{N}{1,3}", _JAPANESE, _DEEPSEEK_V3]),
    "deepseek-coder": Words([_NEWLINES, r"\s?\p{L}+", r"\s?\p{P}+", _CJK, _DIGIT]),
    "deepseek-llm": Words(
        [
            _NEWLINES,
            rf"\s?[{_CASED}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _CJK,
            r"\p{N}+",
        ]
    ),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "lfm2"), _LLAMA3),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), _QWEN2),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "modern-bert"), _GPT2),
    **dict.fromkeys(("jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "exaone4"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell"), _DIGITS_GPT2),
    **dict.fromkeys(("exaone", "minerva-7b"), _DIGITS_GPT2),
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}
_KINDS["jina-v1-en"] = _KINDS["jina-v2-code"] = _KINDS["roberta-bpe"]


def words_named(name: str) -> Words:
    """How llama.cpp divides the text of vocabularies with this name, with regular expressions in
    place of the names of patterns. UserError if byhand does not know the name.
    """
    from byhand.text.pretokenise import PATTERNS

    if name not in _KINDS:
        near = suggestion(name, _KINDS)
        raise UserError(f"the pre-tokenizer {name!r} of llama.cpp is not supported yet{near}")
    found = _KINDS[name]
    patterns = [PATTERNS.get(pattern, pattern) for pattern in found.patterns]
    return Words(patterns, found.ignore_merges, found.add_bos, found.add_sep)
