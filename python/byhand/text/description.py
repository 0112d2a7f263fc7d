"""The description of a tokenizer: a dict in the form of Hugging Face's tokenizer.json, checked.

    {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
     "post_processor", "decoder", "model"}

The normaliser, the pre-tokenizer, the post-processor and the decoder are checked by the modules
that make them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from byhand.errors import UserError

Description = dict[str, Any]

COMPONENTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# The kind of a tokenizer with a model of each type: the name of its module in byhand.text.
KINDS = {"BPE": "bpe", "WordPiece": "wordpiece", "Unigram": "unigram", "WordLevel": "word"}

_TEXT, _TEXT_OR_NONE, _YES_NO = (str,), (str, type(None)), (bool,)
# The fields of each type of model besides the vocabulary: the types they may have, the default.
_FIELDS: dict[str, dict[str, tuple[tuple[type, ...], Any]]] = {
    "BPE": {
        "dropout": ((float, int, type(None)), None),
        "unk_token": (_TEXT_OR_NONE, None),
        "continuing_subword_prefix": (_TEXT_OR_NONE, None),
        "end_of_word_suffix": (_TEXT_OR_NONE, None),
        "fuse_unk": (_YES_NO, False),
        "byte_fallback": (_YES_NO, False),
        "ignore_merges": (_YES_NO, False),
    },
    "WordPiece": {
        "unk_token": (_TEXT, "[UNK]"),
        "continuing_subword_prefix": (_TEXT, "##"),
        "max_input_chars_per_word": ((int,), 100),
    },
    "WordLevel": {"unk_token": (_TEXT, "<unk>")},
    "Unigram": {
        "unk_id": ((int, type(None)), None),
        "byte_fallback": (_YES_NO, False),
        # Of SentencePiece: scores are added in float32. Hugging Face ignores the name.
        "float32": (_YES_NO, False),
    },
}
_FLAGS = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": True,
    "special": False,
}


def checked(data: object) -> Description:
    """A description with every field, in one order. UserError says what is wrong with it."""
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise UserError('the description of a tokenizer has no "model"')
    model = _model(data["model"])
    return {
        "version": "1.0",
        "truncation": _lengths(data, "truncation", "max_length"),
        "padding": _lengths(data, "padding", "pad_id"),
        "added_tokens": _added_tokens(data.get("added_tokens"), model),
        **{name: _section(data, name) for name in COMPONENTS},
        "model": model,
    }


def vocabulary(model: Description) -> list[str]:
    """The tokens of a checked model; the index is the id, "" an id without a token."""
    if model["type"] == "Unigram":
        return [token for token, _ in model["vocab"]]
    tokens = [""] * (max(model["vocab"].values(), default=-1) + 1)
    for token, id in model["vocab"].items():
        tokens[id] = token
    return tokens


def merge_pairs(model: Description) -> list[tuple[str, str]]:
    """The merges of a checked BPE model that has some, as pairs of tokens."""
    return [_merge_pair(merge) or ("", "") for merge in model["merges"]]


def _merge_pair(merge: object) -> tuple[str, str] | None:
    """The two tokens of a merge, which is a text "a b" or a pair; None if it is neither."""
    if isinstance(merge, str):
        left, space, right = merge.partition(" ")
        return (left, right) if space and " " not in right else None
    if isinstance(merge, list | tuple) and list(map(type, merge)) == [str, str]:
        return merge[0], merge[1]
    return None


def whole_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def require_text(text: object, what: str) -> str:
    """`text` if it is a str that UTF-8 can encode."""
    if not isinstance(text, str):
        raise UserError(f"{what} is a text, not {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what}, {text!r:.60}, has half of a surrogate pair") from None
    return text


def _require_texts(tokens: Iterable[Any]) -> None:
    try:
        "".join(tokens).encode()
    except (TypeError, UnicodeEncodeError):
        for token in tokens:
            require_text(token, "a token")


def require_ids(ids: Collection[Any], count: int, what: str) -> None:
    """UserError if the ids are not whole numbers, not distinct, or far beyond their number."""
    most = 4 * count + 1024  # more would be memory for ids without a token
    if set(map(type, ids)) <= {int} and len(set(ids)) == len(ids):
        if 0 <= min(ids, default=0) and max(ids, default=0) < most:
            return
    seen = set()
    for id in ids:
        if not whole_number(id) or id >= most:
            raise UserError(
                f"{what} has the id {id!r:.60}: the ids of {count} tokens are whole numbers "
                f"below {most}"
            )
        if id in seen:
            raise UserError(f"{what} has the id {id} twice")
        seen.add(id)


def _section(data: Description, name: str) -> Description | None:
    section = data.get(name)
    if section is not None and not isinstance(section, dict):
        raise UserError(f'the "{name}" of a tokenizer is an object or null, not {section!r:.60}')
    return section


def _lengths(data: Description, name: str, number: str) -> Description | None:
    """The "truncation" or the "padding", whose fields that `encode_batch` uses are right."""
    section = _section(data, name)
    if section is not None:
        if section.get("direction", "Right") not in ("Left", "Right"):
            raise UserError(f'the direction of "{name}" is Left or Right')
        if not whole_number(section.get(number, 0)) or section.get(number, 0) >= 2**31:
            raise UserError(f'the {number} of "{name}" is a whole number below 2147483648')
    return section


def _model(data: Description) -> Description:
    kind = data.get("type", _type_without_name(data))
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise UserError(f"the model type {kind!r} is unknown: choose from {', '.join(_FIELDS)}")
    model: Description = {"type": kind}
    for name, (types, default) in _FIELDS[kind].items():
        value = data.get(name, default)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise UserError(f'the "{name}" of a {kind} model cannot be {value!r:.60}')
        model[name] = require_text(value, f'"{name}"') if isinstance(value, str) else value
    vocab = data.get("vocab")
    if kind == "Unigram":
        model["vocab"] = _scores(vocab)
        if model["unk_id"] is not None and not 0 <= model["unk_id"] < len(model["vocab"]):
            raise UserError(f"the unk_id {model['unk_id']} of a Unigram model is not in its vocab")
        return model
    if not isinstance(vocab, dict):
        raise UserError(f'the "vocab" of a {kind} model does not map tokens to ids')
    _require_texts(vocab)
    require_ids(vocab.values(), len(vocab), f'the "vocab" of a {kind} model')
    model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
    if kind == "BPE":
        model["merges"] = _merges(data.get("merges", ()), model)
        if model["dropout"] is not None and not 0 <= model["dropout"] <= 1:
            raise UserError(f"the dropout of a BPE model is between 0 and 1: {model['dropout']}")
    return model


def _type_without_name(data: Description) -> str:
    """The type of a model in an older file, which does not name it."""
    if "merges" in data:
        return "BPE"
    if isinstance(data.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in data else "WordLevel"


def _scores(vocab: object) -> list[list[Any]]:
    wrong = 'the "vocab" of a Unigram model is a list of pairs of a token and a number'
    if not isinstance(vocab, list):
        raise UserError(wrong)
    scores = []
    for pair in vocab:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UserError(f"{wrong}, not {pair!r:.60}")
        token, score = pair
        # Whole numbers beyond float64 are the only ones whose conversion fails.
        if isinstance(score, bool) or not isinstance(score, float | int) or abs(score) > 1e30:
            raise UserError(f"{wrong}, not {pair!r:.60}")
        scores.append([token, float(score)])
    _require_texts([token for token, _ in scores])
    return scores


def _merges(merges: object, model: Description) -> list[Any] | None:
    """The merges as texts "a b"; as pairs if a token has a space; None as it is."""
    if merges is None:  # tiktoken's rule; no file of Hugging Face has it
        return None
    if not isinstance(merges, list | tuple):
        raise UserError('the "merges" of a BPE model are a list')
    vocab, prefix = model["vocab"], len(model["continuing_subword_prefix"] or "")
    for number, merge in enumerate(merges):
        pair = _merge_pair(merge)
        if pair is None:
            raise UserError(f"merge {number} of a BPE model is not two tokens: {merge!r:.60}")
        left, right = pair
        joined = left + (right[prefix:] if prefix else right)
        if joined not in vocab or left not in vocab or right not in vocab:
            missing = next(token for token in (left, right, joined) if token not in vocab)
            raise UserError(
                f"merge {number}, {left!r:.60} with {right!r:.60}, needs the token "
                f"{missing!r:.60}, which is not in the vocab"
            )
    if all(isinstance(merge, str) for merge in merges):
        return list(merges)
    pairs = [list(_merge_pair(merge) or ()) for merge in merges]
    if any(" " in left or " " in right for left, right in pairs):
        return pairs
    return [" ".join(pair) for pair in pairs]


def _added_tokens(listed: object, model: Description) -> list[Description]:
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise UserError('the "added_tokens" of a tokenizer are a list of objects')
    known = vocabulary(model)
    ids = {token: id for id, token in enumerate(known) if token}
    tokens = []
    contents = set()
    for one in listed:
        content = require_text(one.get("content"), "the content of an added token")
        if not content:
            raise UserError("an added token has no content")
        if content in contents:
            raise UserError(f"the added token {content!r} is listed twice")
        contents.add(content)
        id = one.get("id")
        if not whole_number(id):
            raise UserError(f"the id of the added token {content!r} cannot be {id!r}")
        if content in ids and ids[content] != id:
            raise UserError(
                f"the added token {content!r} has the id {id}, and in the model {ids[content]}"
            )
        if content not in ids and id < len(known) and known[id]:
            raise UserError(
                f"the added token {content!r} has the id {id} of the model's token {known[id]!r}"
            )
        flags = {}
        for name, default in _FLAGS.items():
            flags[name] = one.get(name, default)
            if not isinstance(flags[name], bool):
                raise UserError(f'"{name}" of the added token {content!r} is not true or false')
        tokens.append({"id": id, "content": content, **flags})
    require_ids([t["id"] for t in tokens], len(known) + len(tokens), 'the list "added_tokens"')
    return sorted(tokens, key=lambda token: token["id"])
