"""Loading and saving tokenizers in the formats of other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from byhand.errors import UserError
from byhand.files import write_atomically
from byhand.text.description import KINDS, Description
from byhand.text.formats import gguf, parts, sentencepiece, tiktoken, vocab_merges, vocab_txt

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer

FORMATS = (
    "tokenizer.json, vocab.json with merges.txt, NAME.tiktoken, NAME.model of SentencePiece, "
    "vocab.txt, or NAME.gguf"
)
_MERGES_OF = {"encoder.json": "vocab.bpe"}  # of the names that OpenAI gave the two files


def load(
    path: str | Path,
    pattern: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
) -> Tokenizer:
    """The tokenizer in a file, or in a folder that has such a file.

    The formats are Hugging Face's tokenizer.json (and that of a run), vocab.json with merges.txt
    beside it, tiktoken's ranks (.tiktoken), SentencePiece's .model, vocab.txt of WordPiece, and
    GGUF.

    Args:
        pattern: by what a file of tiktoken's ranks divides the text: the name of a pattern, such as
            "gpt2", "gpt4" or "o200k", or a regular expression. Needed where no settings are beside
            the file and it is not one of OpenAI's.
        special_tokens: of such a file, with their ids.

    UserError says what is wrong with the file, or which part of it is not supported.
    """
    from byhand.text.tokenizer import tokenizer_of

    return tokenizer_of(read_description(Path(path), pattern, special_tokens))


def read_description(
    path: Path, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Description:
    """The description in a file of any format, with the "kind" of the tokenizer."""
    path = _file_in(path) if path.is_dir() else path
    if not path.exists():
        raise UserError(f"there is no tokenizer at {path}")
    format = _format_of(path)
    if format != "tiktoken" and (pattern is not None or special_tokens is not None):
        given = "pattern" if pattern is not None else "special tokens"
        raise UserError(f"the {given} may be given for a file of tiktoken's ranks only, not {path}")
    if format == "json":
        return _read_json(path)
    if format == "tiktoken":
        return with_kind(tiktoken.read(path, pattern, special_tokens))
    readers: dict[str, Callable[[Path], Description]] = {
        "merges": lambda path: vocab_merges.read(*_pair(path)),
        "sentencepiece": sentencepiece.read,
        "vocab_txt": vocab_txt.read,
        "gguf": gguf.read,
    }
    return with_kind(readers[format](path))


def with_kind(description: Description) -> Description:
    """A description with the kind of its tokenizer: "bpe" for a BPE model."""
    named = description["model"].get("type", "")
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        known = ", ".join(KINDS)
        raise UserError(f"a model of type {named!r:.60} is not supported: byhand has {known}")
    return {"kind": kind, **description}


_IN_FOLDERS = (
    "tokenizer.json",
    "vocab.json",
    "encoder.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
)


def _file_in(folder: Path) -> Path:
    """The file with the tokenizer in a folder."""
    named = [folder / name for name in _IN_FOLDERS if (folder / name).exists()]
    found = named or sorted(folder.glob("*.tiktoken"))
    if not found:
        raise UserError(f"the folder {folder} has no tokenizer: byhand looks for {FORMATS}")
    return found[0]


def _format_of(path: Path) -> str:
    """By the beginning of the file, and where that is not clear by its name."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if start.startswith(b"GGUF"):
        return "gguf"
    suffix = path.suffix.lower()
    if suffix in (".txt", ".bpe"):
        merges = start.startswith(b"#version") or path.name.endswith(("merges.txt", ".bpe"))
        return "merges" if merges else "vocab_txt"
    first = start.partition(b"\n")[0].split()
    if suffix == ".tiktoken" or (len(first) == 2 and first[1].isdigit()):
        return "tiktoken"
    if suffix == ".json" or start.lstrip()[:1] == b"{":
        return "json"
    if ".model" in path.suffixes or suffix == ".spm":
        return "sentencepiece"
    if suffix == ".gguf":
        return "gguf"
    raise UserError(f"{path} is not a tokenizer: byhand reads {FORMATS}")


def _read_json(path: Path) -> Description:
    """tokenizer.json of Hugging Face or of a run, or vocab.json."""
    data = parts.read_json(path)
    if isinstance(data, dict) and data and all(type(id) is int for id in data.values()):
        return with_kind(vocab_merges.read(*_pair(path)))
    if not isinstance(data, dict) or not ("kind" in data or isinstance(data.get("model"), dict)):
        raise UserError(f"{path} does not describe a tokenizer")
    return data if "kind" in data else with_kind(data)


def _pair(path: Path) -> tuple[Path, Path]:
    """vocab.json and merges.txt, of which `path` is one."""
    name = path.name
    if path.suffix == ".json":
        vocab = path
        merges = path.with_name(
            _MERGES_OF.get(name, name.removesuffix("vocab.json") + "merges.txt")
        )
    else:
        merges = path
        other = {merges: vocab for vocab, merges in _MERGES_OF.items()}
        vocab = path.with_name(other.get(name, name.removesuffix("merges.txt") + "vocab.json"))
    for one in (vocab, merges):
        if not one.exists():
            raise UserError(f"vocab.json and merges.txt belong together: there is no {one}")
    return vocab, merges


# --- Saving --------------------------------------------------------------------------------------


def save(tokenizer: Tokenizer, path: str | Path, replace: bool = True) -> list[Path]:
    """Write a tokenizer in the format that the name says, and return the paths of the files:
    NAME.tiktoken (with NAME.tiktoken.json), NAME.model (SentencePiece), vocab.txt, vocab.json (with
    merges.txt), or tokenizer.json for any other name that ends with .json. A folder gets a
    tokenizer.json.

    UserError if the format cannot hold the tokenizer, and says what of it, or without `replace` if
    one of the files exists; nothing is written then.
    """
    from byhand.text.formats import sentencepiece_write

    path = require_writable_name(Path(path), tokenizer.kind)
    described = {key: value for key, value in tokenizer.to_dict().items() if key != "kind"}
    name, suffix = path.name, path.suffix.lower()
    if suffix == ".tiktoken":
        ranks, settings = tiktoken.write(described)
        files = {path: ranks, tiktoken.settings_path(path): settings}
    elif suffix in (".model", ".spm"):
        files = {path: sentencepiece_write.write(described)}
    elif name.endswith("merges.txt") or name.endswith("vocab.json"):
        stem = name.removesuffix("merges.txt").removesuffix("vocab.json")
        vocab, merges = vocab_merges.write(described)
        files = {
            path.with_name(stem + "vocab.json"): vocab,
            path.with_name(stem + "merges.txt"): merges,
        }
    elif suffix == ".txt":
        files = {path: vocab_txt.write(described)}
    else:
        files = {path: _json_of(tokenizer, described)}
    if not replace:
        require_new(*files)
    for file, data in files.items():
        _write(file, data)
    return list(files)


def require_new(*paths: Path) -> None:
    """UserError if one of the files exists."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists already: name another file, or delete this one")


def require_writable_name(path: Path, kind: str = "") -> Path:
    """The file that `save` writes first for this path. UserError if its name is of no format, or
    the format is not for tokenizers of this kind.
    """
    if path.is_dir() or not path.suffix:
        path = path / "tokenizer.json"
    name, suffix = path.name, path.suffix.lower()
    if suffix == ".gguf":
        raise UserError("byhand reads the tokenizers in GGUF files and does not write them")
    if suffix not in (".json", ".tiktoken", ".model", ".spm", ".txt"):
        raise UserError(
            f"the name {name} is of no format of tokenizers: byhand writes tokenizer.json, "
            "vocab.json with merges.txt, NAME.tiktoken, NAME.model, or vocab.txt"
        )
    if kind == "character" and (suffix != ".json" or name.endswith("vocab.json")):
        raise UserError(f"a character tokenizer can be saved as tokenizer.json only, not {name}")
    return path


def _json_of(tokenizer: Tokenizer, described: Description) -> bytes:
    import json

    if tokenizer.kind == "character":
        return json.dumps(tokenizer.to_dict()).encode("ascii")
    model = described["model"]
    if model["type"] == "BPE" and model.get("merges") is None:
        described = {**described, "model": {**model, "merges": tiktoken.merges_of(model["vocab"])}}
    return json.dumps(described, ensure_ascii=False, indent=2).encode("utf-8")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
