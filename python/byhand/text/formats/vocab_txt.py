"""vocab.txt: the vocabulary of WordPiece as BERT has it, one token on each line, its id the number
of the line from 0.

The file does not say whether the text is put into lower case: `tokenizer_config.json` beside it
does, or else the vocabulary, if none of its words has an upper-case letter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from byhand.errors import UserError
from byhand.text.description import Description
from byhand.text.formats import parts

FORMAT = "the format of vocab.txt"
ADVICE = "save it as tokenizer.json"
PREFIX = "##"
LONGEST_WORD = 100  # characters; a longer word is [UNK]
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read(path: Path) -> Description:
    """The description of the tokenizer in vocab.txt. UserError says what is wrong with it."""
    lines = parts.read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    vocab: dict[str, int] = {}
    for id, line in enumerate(lines):
        token = line.removesuffix("\r")
        if token in vocab:
            raise UserError(f"{path}, line {id + 1}: the token {token!r} is there twice")
        if not token:
            raise UserError(f"{path}, line {id + 1} is empty: every line is a token")
        if "\0" in token:
            raise UserError(f"{path}, line {id + 1} has a byte 0: it is not a vocabulary")
        vocab[token] = id
    if "[UNK]" not in vocab:
        raise UserError(f"{path} has no token [UNK], which words outside the vocabulary become")
    config = path.with_name("tokenizer_config.json")
    settings: Any = parts.read_json(config) if config.exists() else {}
    if not isinstance(settings, dict):
        raise UserError(f"{config} is not a JSON object")
    return describe(vocab, settings)


def describe(vocab: dict[str, int], settings: dict[str, Any]) -> Description:
    """The description of a vocabulary; `settings` are those of tokenizer_config.json."""
    lower = settings.get("do_lower_case")
    if lower is None:
        lower = all(token == token.lower() for token in vocab if token not in SPECIAL)
    marked = "[CLS]" in vocab and "[SEP]" in vocab
    return parts.description(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": vocab,
        },
        added=[parts.added_token(vocab[t], t) for t in SPECIAL if t in vocab],
        normalizer={
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": bool(lower),
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=parts.template(["[CLS]"], ["[SEP]"], vocab) if marked else None,
        decoder={"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
    )


def write(description: Description) -> bytes:
    """The content of vocab.txt. UserError if it cannot hold the tokenizer."""
    model = description["model"]
    if model.get("type") != "WordPiece":
        raise UserError(f"{FORMAT} is for WordPiece, not for {model.get('type')}: {ADVICE}")
    added = {token["content"]: token["id"] for token in description.get("added_tokens", ())}
    vocab = {**model["vocab"], **added}
    by_id = {id: token for token, id in vocab.items()}
    if sorted(by_id) != list(range(len(vocab))):
        raise UserError(f"vocab.txt needs a token for every id from 0 on: {ADVICE}")
    tokens = [by_id[id] for id in range(len(vocab))]
    for token in tokens:
        if not token or "\n" in token or "\r" in token:
            raise UserError(f"vocab.txt cannot hold the token {token!r}: {ADVICE}")
    again = describe(vocab, {})
    for option in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"):
        if model.get(option) != again["model"][option]:
            raise UserError(f"{FORMAT} cannot hold {option}={model.get(option)!r}: {ADVICE}")
    parts.require_kept(description, again, FORMAT, ADVICE)
    if added.keys() != {token["content"] for token in again["added_tokens"]}:
        odd = min(added.keys() ^ {token["content"] for token in again["added_tokens"]})
        raise UserError(f"{FORMAT} cannot tell whether {odd!r} is an added token: {ADVICE}")
    return "".join(token + "\n" for token in tokens).encode("utf-8")
