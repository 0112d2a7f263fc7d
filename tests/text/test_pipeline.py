"""Tokenizers made of parts: equal to Hugging Face's, in batches, in streams, and for bad input."""

import _thread
import copy
import json
import pickle
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand import _text
from byhand.errors import UserError
from byhand.text import stream
from byhand.text import tokenizer as protocol
from byhand.text.description import checked
from byhand.text.pipeline import PipelineTokenizer
from byhand.text.pretokenise import PATTERNS
from tests.text.parts import added_token, bpe, byte_bpe, description, word_level

MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("a", "n"), ("Ġ", "a"), ("Ã", "©")]
BYTES = byte_bpe(MERGES, ["<pad>", "<s>"])
TEXTS = [
    "",
    " ",
    "The cat's hat, in the rain: 3.14 \n\n  and a man.",
    "   leading and trailing   ",
    "\tdef f(x):\r\n        return x ** 2  # '\x00'\n",
    "déjà vu, Ångström e\u0301 ﬁ Ⅳ ½ \uff21\uff22\uff23",
    "日本語のテキスト。中文字符\uff0c没有空格。한국어 텍스트",
    "العربية مع التَّشكيل ١٢٣",
    "ภาษาไทยไม่มีช่องว่าง हिन्दी देवनागरी क्षि",
    "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽 a\u200db\ufeff\u00a0c\u2028d",
    "it's I'LL don\u2019t 'tis ''s <s> </s>",
    "a" * 300 + " " * 50 + "^" * 70,
]
ALPHABET = "aAbB tThHeE'.,!1\uff12\n\r\t é\u0301日字कّ🙂\u200d\u00a0▁_-<s>"


def random_texts(count: int, seed: int = 0) -> list[str]:
    numbers = random.Random(seed)
    texts = []
    for _ in range(count):
        letters = numbers.choice([ALPHABET, "abc  ", "".join(TEXTS)])
        texts.append("".join(numbers.choices(letters, k=numbers.randrange(40))))
    return texts


CHARACTERS = sorted(set("".join(TEXTS) + ALPHABET + "▁#"))


def word_piece(**components: Any) -> dict[str, Any]:
    vocab = ["[UNK]", "the", "cat", "##s", "in", "##in", "a", "##t", "e", "##́", "日", "3", ".", "'"]
    vocab += ["un", "##a", "##b", "b", "t", "h", "##h", "##e", "x"]
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 20,
        "vocab": {token: id for id, token in enumerate(vocab)},
    }
    return description(model, [added_token(0, "[UNK]")], **components)


def unigram(byte_fallback: bool = False, **components: Any) -> dict[str, Any]:
    numbers = random.Random(5)
    pieces = [["<unk>", 0.0], ["<s>", 0.0]]
    if byte_fallback:
        pieces += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    words = {*"▁abthe.日é ", "▁the", "he", "in", "▁a", "▁▁", "cat", "the", "本語"}
    pieces += [[word, -numbers.uniform(1, 9)] for word in sorted(words)]
    model = {"type": "Unigram", "unk_id": 0, "byte_fallback": byte_fallback, "vocab": pieces}
    return description(model, [added_token(1, "<s>")], **components)


def sentencepiece_bpe(**components: Any) -> dict[str, Any]:
    vocab = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab += [*"▁abthe.日é", "▁t", "he", "▁the"]
    model = bpe(
        vocab, ["▁ t", "h e", "▁t he"], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    return description(model, [added_token(1, "<s>")], **components)


def sequence(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", name: list(parts)}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
LLAMA = {
    "normalizer": sequence(
        "normalizers",
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ),
    "decoder": sequence(
        "decoders",
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ),
}
BERT = {
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
}
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NO_REGEX = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
SPLIT = {
    "type": "Split",
    "pattern": {"Regex": GPT4},
    "behavior": "Isolated",
    "invert": False,
}
CASES = {
    "bytes": BYTES,
    "bytes, prefix space": {**BYTES, "pre_tokenizer": {**NO_REGEX, "add_prefix_space": True}},
    "bytes, trimmed offsets": {**BYTES, "post_processor": {**NO_REGEX, "use_regex": True}},
    "bytes, Llama 3": {**BYTES, "pre_tokenizer": sequence("pretokenizers", SPLIT, NO_REGEX)},
    "bytes, digits": {
        **BYTES,
        "pre_tokenizer": sequence(
            "pretokenizers",
            {"type": "Digits", "individual_digits": True},
            {**NO_REGEX, "use_regex": True},
        ),
    },
    "bytes, normalised": {**BYTES, "normalizer": {"type": "NFC"}},
    "Llama 2": sentencepiece_bpe(**LLAMA),
    "Metaspace": sentencepiece_bpe(pre_tokenizer=METASPACE, decoder=METASPACE),
    "Metaspace, first": sentencepiece_bpe(
        normalizer={"type": "Strip", "strip_left": True, "strip_right": False},
        pre_tokenizer={**METASPACE, "prepend_scheme": "first"},
        decoder=METASPACE,
    ),
    "BERT": word_piece(**BERT),
    "WordPiece, whitespace": word_piece(pre_tokenizer={"type": "Whitespace"}),
    "Unigram": unigram(pre_tokenizer=METASPACE, decoder=METASPACE),
    "Unigram, bytes": unigram(True, pre_tokenizer=METASPACE, decoder=METASPACE),
    "Unigram, no split": unigram(normalizer=LLAMA["normalizer"]),
    "words": word_level(
        ["[UNK]", "the", "cat", "a", ".", "'", "日本語のテキスト"],
        normalizer={"type": "Lowercase"},
        pre_tokenizer=sequence(
            "pretokenizers",
            {"type": "WhitespaceSplit"},
            {"type": "Punctuation", "behavior": "Isolated"},
        ),
    ),
}


@pytest.fixture(params=CASES, scope="module")
def case(request: Any) -> dict[str, Any]:
    return CASES[request.param]


def test_equal_to_hugging_face(case):
    check_against_hugging_face(case, [*TEXTS, *random_texts(150)])


@pytest.mark.deep
def test_equal_to_hugging_face_on_many_texts(case):
    check_against_hugging_face(case, random_texts(50_000, seed=1))


def check_against_hugging_face(case: dict[str, Any], texts: list[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ours = PipelineTokenizer(case)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(case))
    for text, right in zip(texts, theirs.encode_batch(texts), strict=True):
        ids = ours.encode(text, allowed_special="all").tolist()
        assert ids == right.ids, (text, ours.tokenize(text, allowed_special="all"), right.tokens)
        if case.get("normalizer") != {"type": "NFC"}:  # see the test of composed characters
            offsets = ours.offsets(text, allowed_special="all").tolist()
            assert offsets == [list(pair) for pair in right.offsets], (text, right.tokens)
        for skip in (True, False):
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip), text
    for token, id in theirs.get_vocab().items():
        assert ours.token_to_id(token) == id
        assert ours.id_to_token(id) == token
    assert len(ours) == theirs.get_vocab_size()


def test_what_is_saved_is_read_by_hugging_face(case):
    tokenizers = pytest.importorskip("tokenizers")
    ours = PipelineTokenizer(case)
    again = tokenizers.Tokenizer.from_str(json.dumps(ours.description))
    for text in TEXTS:
        assert again.encode(text).ids == ours.encode(text, allowed_special="all").tolist()


def test_any_ids_can_be_decoded(case):
    tokenizer = PipelineTokenizer(case)
    numbers = np.random.default_rng(0)
    for _ in range(200):
        ids = numbers.integers(0, len(tokenizer), numbers.integers(0, 20))
        assert isinstance(tokenizer.decode(ids), str)
        shown = tokenizer.stream()
        text = "".join(shown.add(id) for id in ids) + shown.finish()
        assert text == tokenizer.decode(ids)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_a_batch_is_the_same_on_any_number_of_threads(case, threads):
    tokenizer = PipelineTokenizer(case)
    texts = [*TEXTS, *random_texts(500, seed=2)]
    rows = tokenizer.encode_batch(texts, threads=threads)
    assert [row.tolist() for row in rows] == [tokenizer.encode(text).tolist() for text in texts]


def test_tokenizers_can_be_copied_and_kept(case):
    tokenizer = PipelineTokenizer(case)
    text = TEXTS[2]
    kept = json.loads(json.dumps(tokenizer.to_dict()))
    for other in (
        copy.deepcopy(tokenizer),
        pickle.loads(pickle.dumps(tokenizer)),
        PipelineTokenizer.from_dict(kept),
    ):
        assert other == tokenizer
        assert hash(other) == hash(tokenizer)
        assert other.sha256() == tokenizer.sha256()
        assert other.encode(text).tolist() == tokenizer.encode(text).tolist()
    assert isinstance(tokenizer, protocol.Tokenizer)
    assert len(tokenizer.encode(tokenizer.start)) > 0


def test_the_fingerprint_is_that_of_the_ids():
    def fingerprint(**changes: Any) -> str:
        return PipelineTokenizer({**BYTES, **changes}).sha256()

    assert fingerprint() == fingerprint(truncation={"max_length": 5, "direction": "Right"})
    assert fingerprint() != fingerprint(normalizer={"type": "NFC"})
    other = byte_bpe([*MERGES[:-2], MERGES[-1], MERGES[-2]], ["<pad>", "<s>"])
    assert fingerprint() != PipelineTokenizer(other).sha256()


# --- Long texts ----------------------------------------------------------------------------------


def long_text(characters: int) -> str:
    numbers = random.Random(3)
    words = "the cat The in rain an <s> </s> ''s 日本 déjà 🙂 3.14 \n \t  new york x".split(" ")
    words += ["слово", "ab。cd、", "語。\n", "字\uff0c字", "किताब", "e\u0301", "\u0301x", "ที่"]
    return " ".join(numbers.choices(words, k=characters // 4))[:characters]


def test_a_long_text_has_the_ids_of_its_parts_between_words(case):
    """It is encoded in parts of 64 KB where that cannot change the ids."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(case))
    text = long_text(100_000)
    ours = PipelineTokenizer(case)
    right = theirs.encode(text)
    assert ours.encode(text, allowed_special="all").tolist() == right.ids
    if case.get("normalizer") != {"type": "NFC"}:
        offsets = ours.offsets(text, allowed_special="all")
        np.testing.assert_array_equal(offsets, np.array(right.offsets))


def test_blocks_are_encoded_as_the_whole_text(case):
    tokenizer = PipelineTokenizer(case)
    text = long_text(400_000)
    whole = tokenizer.encode(text, add_special_tokens=False)
    for seed in range(3):
        numbers, blocks, at = random.Random(seed), [], 0
        while at < len(text):
            size = numbers.choice([0, 1, 7, 1000, 290_000])
            blocks.append(text[at : at + size])
            at += size
        ids = tokenizer.encode_blocks(iter(blocks), len(text))
        assert ids.dtype == protocol.id_dtype(len(tokenizer))
        np.testing.assert_array_equal(ids, whole)
    with pytest.raises(ValueError, match="do not have 5 characters"):
        tokenizer.encode_blocks(["abc"], 5)
    with pytest.raises(UserError, match=r"U\+D800 at position 400001 of the text|half of a surr"):
        tokenizer.encode_blocks(["ab" * 200_000, "a\ud800"], 400_002)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.decode([[1], [1, 2]]), "one sequence of ids, not several"),
        (lambda t: t.decode(None), "a sequence of ids of the vocabulary, not None"),
        (lambda t: t.decode([2**70]), "a sequence of ids of the vocabulary, not "),
        (lambda t: t.encode("a", allowed_special=None), 'is "all" or a list of tokens, not None'),
        (lambda t: t.encode("a", allowed_special=[["a"]]), "there is no special token"),
        (lambda t: t.encode_batch(["a"], padding="max_length", max_length="3"), "max_length is a"),
        (lambda t: t.encode_batch(["a"], padding="max_length", max_length=2.5), "max_length is a"),
        (lambda t: t.encode_blocks([b"abc"], 3), "a text must be a str, not bytes"),
        (lambda t: t.id_to_token("a"), "a token id is a whole number, not 'a'"),
        (lambda t: t.id_to_token(1.0), "a token id is a whole number, not 1.0"),
        (lambda t: t.token_to_id(["a"]), "a token is a str, not"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(PipelineTokenizer(BYTES))


NOT_LOCAL = {"type": "Replace", "pattern": {"String": "\x00\x00"}, "content": ""}


def test_texts_of_any_script_are_divided():
    """So that a long text need not be in memory."""
    tokenizer = PipelineTokenizer(BYTES)
    for text in (
        "слово за словом ",
        "เรียน ที่ นี่ ",
        "字字字。字字、",
        "अब किताब ",
        "yes\n",
        "1,2\r\n",
    ):
        texts = list(stream.groups([text * 100_000], tokenizer._pipeline.cuts))
        assert max(len(part) for group in texts for part in group) < 300_000
        assert "".join(part for group in texts for part in group) == text * 100_000


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_the_parts_of_a_text_have_the_ids_of_the_whole(name, prefix):
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix}
    words = {"pattern": {"Regex": PATTERNS[name]}, "behavior": "Isolated", "invert": False}
    if name == "words":  # leaves out white space
        words.update(behavior="Removed", invert=True)
    split = {"type": "Split", **words}
    both = {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}
    tokenizer = PipelineTokenizer(
        {**BYTES, "pre_tokenizer": byte_level if name == "gpt2" else both}
    )
    random_ = random.Random(0)
    signs = [*"ab1²字ก\u0301、。\n\r .!-/", "\r\n", "  ", "'s"]
    divided = 0
    for _ in range(2000):
        text = "".join(random_.choices(signs, k=random_.randrange(2, 9)))
        at = _text.last_cut(text, tokenizer._pipeline.cuts)
        if at >= 0:
            divided += 1
            ids = [*tokenizer.encode(text[:at]), *tokenizer.encode(text[at:])]
            assert ids == tokenizer.encode(text).tolist(), (text, at)
    assert divided > (20 if prefix else 400)


@pytest.mark.parametrize("content", ["r t", "cat", "new york", "t "])
@pytest.mark.parametrize("flags", [{}, {"rstrip": True}, {"lstrip": True}, {"single_word": True}])
def test_added_tokens_are_found_across_parts(content, flags):
    data = byte_bpe(MERGES)
    data["added_tokens"] = [added_token(263, content, special=False, **flags)]
    tokenizer = PipelineTokenizer(data)
    text = "cat new york hat r t cat" * 12_000
    whole = PipelineTokenizer({**data, "normalizer": NOT_LOCAL})  # never in parts
    ids = whole.encode(text)
    np.testing.assert_array_equal(tokenizer.encode(text), ids)
    np.testing.assert_array_equal(tokenizer.encode_blocks([text], len(text)), ids)


@pytest.mark.parametrize("call", ["encode", "encode_batch"])
def test_an_interrupt_stops_a_long_call(call):
    tokenizer = PipelineTokenizer(BYTES)
    text = long_text(400_000) * 50
    timer = threading.Timer(0.05, _thread.interrupt_main)  # as Ctrl-C does
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode(text) if call == "encode" else tokenizer.encode_batch([text] * 2)
    timer.join()
    assert tokenizer.encode("a").tolist() == [97]


def test_threads_of_python_share_a_tokenizer():
    tokenizer = PipelineTokenizer(BYTES)
    texts = [*TEXTS, long_text(50_000)] * 5
    right = [tokenizer.encode(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for ids in pool.map(tokenizer.encode, texts)] == right


# --- Byte-level vocabularies ---------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_bytes_decode_to_the_text(text):
    tokenizer = PipelineTokenizer(BYTES)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    offsets = tokenizer.offsets(text)
    covered = {i for begin, end in offsets.tolist() for i in range(begin, end)}
    assert covered == set(range(len(text)))


def test_offsets_slice_the_text():
    tokenizer = PipelineTokenizer(byte_bpe([("Ġ", "a"), ("Ã", "©")]))
    text = "é aß🙂b"
    slices = [text[begin:end] for begin, end in tokenizer.offsets(text).tolist()]
    assert slices == ["é", " a", "ß", "ß", "🙂", "🙂", "🙂", "🙂", "b"]


def test_a_composed_character_stands_for_all_it_is_made_of():
    """Hugging Face's offsets leave the accent out."""
    tokenizer = PipelineTokenizer({**BYTES, "normalizer": {"type": "NFC"}})
    assert tokenizer.offsets("ae\u0301b").tolist() == [[0, 1], [1, 3], [3, 4]]


def test_tokens_of_half_a_character_are_decoded_with_the_next():
    tokenizer = PipelineTokenizer(BYTES)
    ids = tokenizer.encode("a🙂é!").tolist()
    assert tokenizer.decode(ids[:3]) == "a\ufffd"
    shown = tokenizer.stream()
    assert [shown.add(id) for id in ids] == ["a", "", "", "", "🙂", "é", "!"]
    assert shown.add([*ids, ids[1]]) == ""
    assert shown.finish() == "a🙂é!\ufffd"
    assert shown.finish() == ""


def test_a_word_in_a_byte_level_vocabulary_is_decoded_as_text():
    data = byte_bpe()
    data["model"]["vocab"]["日本"] = 256
    tokenizer = PipelineTokenizer(data)
    assert tokenizer.encode("日本").tolist() == list("日本".encode())
    assert tokenizer.decode([256, 97]) == "日本a"


# --- Batches -------------------------------------------------------------------------------------

PADDING = {
    "strategy": "BatchLongest",
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 7,
    "pad_type_id": 0,
    "pad_token": "x",
}
TRUNCATION = {
    "direction": "Left",
    "max_length": 6,
    "strategy": "LongestFirst",
    "stride": 0,
}
START = {
    "type": "TemplateProcessing",
    "single": "<s> $A",
    "pair": "<s> $A <s> $B:1",
    "special_tokens": {"<s>": {"id": "<s>", "ids": [264], "tokens": ["<s>"]}},
}


@pytest.mark.parametrize("padding", [None, PADDING, {**PADDING, "direction": "Right"}])
@pytest.mark.parametrize("truncation", [None, TRUNCATION, {**TRUNCATION, "direction": "Right"}])
def test_padding_and_truncation_are_those_of_hugging_face(padding, truncation):
    tokenizers = pytest.importorskip("tokenizers")
    special = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 264)]
    )
    theirs = tokenizers.Tokenizer.from_str(
        json.dumps({**BYTES, "padding": padding, "truncation": truncation})
    )
    theirs.post_processor = special
    data = {**BYTES, "padding": padding, "truncation": truncation, "post_processor": START}
    ours = PipelineTokenizer(data)
    texts = ["", "abc", "abcdefghij", "zz"]
    right = [row.ids for row in theirs.encode_batch(texts)]
    if padding is None:
        rows = ours.encode_batch(texts, truncation=truncation is not None)
        assert [row.tolist() for row in rows] == right
        return
    ids, lengths = ours.encode_batch(texts, padding=True, truncation=truncation is not None)
    assert ids.tolist() == right
    most = 6 if truncation else 99
    assert lengths.tolist() == [min(len(text) + 1, most) for text in texts]


def test_a_batch_is_padded_to_max_length_with_the_pad_token():
    tokenizer = PipelineTokenizer(BYTES)
    ids, lengths = tokenizer.encode_batch(["a", ""], padding="max_length", max_length=3)
    assert ids.tolist() == [[97, 263, 263], [263, 263, 263]]
    assert lengths.tolist() == [1, 0]
    assert tokenizer.encode_batch([]) == []
    ids, lengths = tokenizer.encode_batch([], padding=True)
    assert ids.shape == (0, 0)
    assert lengths.shape == (0,)


@pytest.mark.parametrize("length", range(2, 14))
def test_pairs_are_cut_as_hugging_face_cuts_them(length):
    tokenizers = pytest.importorskip("tokenizers")
    data = {**BYTES, "post_processor": START}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(BYTES))
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 264)]
    )
    theirs.enable_truncation(length)
    ours = PipelineTokenizer(data)
    for first, second in [("abc", "defgh"), ("abcde", "fgh"), ("abcdefgh", ""), ("ab", "cd")]:
        right = theirs.encode(first, second)
        ids, segments = ours.encode_pair(first, second, max_length=length)
        assert (ids.tolist(), segments.tolist()) == (right.ids, right.type_ids)


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(b"a"), "a text must be a str, not bytes"),
        (lambda t: t.encode("ab\udc80"), r"U\+DC80 at position 2 of the text is half of a"),
        (lambda t: t.encode_batch(["é", "\ud800"]), r"text 1: the character U\+D800 at position 0"),
        (lambda t: t.encode_batch("abc"), "encode_batch takes a list of texts, not str"),
        (lambda t: t.encode_batch(["a", 3]), "text 1 must be a str, not int"),
        (lambda t: t.encode_batch(["a"], truncation=True), "max_length is missing"),
        (lambda t: t.encode_batch(["a"], padding="max_length"), "max_length is missing"),
        (lambda t: t.encode_batch(["a"], padding="yes"), 'padding is False, True or "max_length"'),
        (lambda t: t.encode_batch(["a"], threads=0), "threads is a whole number of at least 1"),
        (
            lambda t: t.encode_batch(["abcd"], padding="max_length", max_length=2),
            "a text has 4 tokens, more than max_length 2: use truncation=True",
        ),
        (lambda t: t.encode_batch(["a"], truncation=True, max_length=-1), "at least 0"),
        (lambda t: t.decode([1, 265]), "token id 265 at position 1 is outside the vocabulary"),
        (lambda t: t.decode([-1]), "token id -1 at position 0 is outside the vocabulary 0..264"),
        (lambda t: t.decode([0.5]), "token ids are whole numbers, not float64"),
        (lambda t: t.decode([[1]]), "decode takes one sequence of ids, not an array of 2 axes"),
        (lambda t: t.from_dict({}), "does not say of which kind it is"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(PipelineTokenizer(BYTES))
    assert "\n" not in str(error.value)


def test_a_tokenizer_without_a_pad_token_does_not_pad():
    with pytest.raises(UserError, match="this tokenizer has no pad token"):
        PipelineTokenizer(byte_bpe()).encode_batch(["a"], padding=True)


def test_a_class_of_one_kind_refuses_others():
    class Words(PipelineTokenizer):
        kind = "word"

    with pytest.raises(UserError, match="that of a bpe tokenizer, not of word"):
        Words(BYTES)
    assert Words(CASES["words"]).to_dict()["kind"] == "word"
    assert checked(CASES["words"]) == Words(CASES["words"]).description
