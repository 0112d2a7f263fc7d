"""Post-processors: the templates around one text and around two, and what is wrong with them."""

import json

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.text import special
from byhand.text.pipeline import PipelineTokenizer
from tests.text.parts import byte_bpe

BERT = {"type": "BertProcessing", "sep": ["</s>", 257], "cls": ["<s>", 256]}
ROBERTA = {
    "type": "RobertaProcessing",
    "sep": ["</s>", 257],
    "cls": ["<s>", 256],
    "trim_offsets": True,
    "add_prefix_space": False,
}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[S]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [
        {"Sequence": {"id": "B", "type_id": 1}},
        {"SpecialToken": {"id": "[E]", "type_id": 3}},
        {"Sequence": {"id": "A", "type_id": 2}},
        {"SpecialToken": {"id": "[S]", "type_id": 0}},
    ],
    "special_tokens": {
        "[S]": {"id": "[S]", "ids": [256], "tokens": ["<s>"]},
        "[E]": {"id": "[E]", "ids": [257, 256], "tokens": ["</s>", "<s>"]},
    },
}
ADDED = ["<s>", "</s>"]


@pytest.mark.parametrize("add_special_tokens", [True, False])
@pytest.mark.parametrize(
    "processor",
    [
        None,
        BERT,
        ROBERTA,
        BYTE_LEVEL,
        TEMPLATE,
        {**ROBERTA, "add_prefix_space": True},
        {**ROBERTA, "trim_offsets": False},
        {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]},
        {"type": "Sequence", "processors": [BYTE_LEVEL, BYTE_LEVEL]},
    ],
)
def test_equal_to_hugging_face(processor, add_special_tokens):
    tokenizers = pytest.importorskip("tokenizers")
    description = byte_bpe(post_processor=processor, special=ADDED)
    ours = PipelineTokenizer(description)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(description))
    for first, second in [("a  b", " c"), ("  x ", "\n\n"), ("", "y"), ("", ""), (" é ", "日本")]:
        one = theirs.encode(first, add_special_tokens=add_special_tokens)
        two = theirs.encode(first, second, add_special_tokens=add_special_tokens)
        assert ours.encode(first, add_special_tokens).tolist() == one.ids
        assert ours.offsets(first, add_special_tokens).tolist() == list(map(list, one.offsets))
        ids, segments = ours.encode_pair(first, second, add_special_tokens)
        assert ids.tolist() == two.ids
        assert segments.tolist() == two.type_ids


def test_templates_may_be_written_in_short():
    tokens = TEMPLATE["special_tokens"]
    short = {"type": "TemplateProcessing", "single": "[S] $A", "special_tokens": tokens}
    made = special.make({**short, "pair": "$B:1 [E]:3 $2 [S]"}, 300)
    assert made == special.make(TEMPLATE, 300)
    assert special.make({**short, "single": "$0"}, 300) == special.PostProcessor()


def test_bert_puts_cls_and_sep_around_two_texts():
    made = special.make(BERT, 300)
    parts = made.apply(["A", "B"], True, lambda ids: ids)
    assert parts == [((256,), 0), ("A", 0), ((257,), 0), ("B", 1), ((257,), 1)]
    assert (made.added(1), made.added(2)) == (2, 3)
    assert made.apply(["A"], False, lambda ids: ids) == [("A", 0)]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "Nonsense"}, "the post-processor 'Nonsense' is not supported"),
        ({"type": {}}, "a post-processor must be an object with a type"),
        ({**BERT, "sep": ["</s>"]}, '"sep" of the post-processor BertProcessing'),
        ({**BERT, "cls": ["<s>", -1]}, '"cls" of the post-processor BertProcessing'),
        ({**BERT, "cls": ["<s>", 300]}, "the token id 300, which is outside the vocabulary 0..299"),
        ({**ROBERTA, "trim_offsets": 1}, '"trim_offsets" of the post-processor RobertaProcessing'),
        ({**TEMPLATE, "single": []}, "the template of one text has the text A once"),
        ({**TEMPLATE, "pair": "$A $A"}, "the template of two texts has the texts A and B once"),
        ({**TEMPLATE, "single": "$A [X]"}, "the special token '[X]', which it gives no ids"),
        ({**TEMPLATE, "single": [{}]}, "a part of a template is a Sequence or a SpecialToken"),
        ({**TEMPLATE, "single": [{"Sequence": {"id": "C", "type_id": 0}}]}, "a part of a template"),
        ({**TEMPLATE, "single": 3}, "a template is a list of parts"),
        ({**TEMPLATE, "special_tokens": 3}, '"special_tokens" of TemplateProcessing'),
        (
            {"type": "Sequence", "processors": [BERT, TEMPLATE]},
            "two post-processors that add special tokens are not supported yet",
        ),
    ],
)
def test_a_wrong_description_is_one_sentence(part, message):
    with pytest.raises(UserError) as error:
        special.make(part, 300)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_roles_are_found_by_the_usual_names():
    tokenizer = PipelineTokenizer(byte_bpe(special=["<pad>", "<s>", "</s>", "<mask>"]))
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 256)
    assert (tokenizer.bos_token, tokenizer.eos_token_id) == ("<s>", 258)
    assert (tokenizer.mask_token_id, tokenizer.unk_token, tokenizer.cls_token_id) == (
        259,
        None,
        None,
    )
    bert = PipelineTokenizer(byte_bpe(post_processor=BERT, special=ADDED))
    assert (bert.cls_token, bert.sep_token_id) == ("<s>", 257)
    assert bert.encode_pair("a", "b")[0].dtype == np.int64
