"""Finding models and tokenizers by the name of their module."""

import subprocess
import sys

import pytest

from byhand import registry
from byhand.errors import UserError
from byhand.models import preset
from byhand.text import CharacterTokenizer, tokenizer_of


def test_a_kind_is_the_module_of_that_name():
    page = registry.find("models", "gpt")
    assert page.__name__ == "byhand.models.gpt"
    assert page.Model.__name__ == "GPT"
    assert page.Config.__name__ == "GPTConfig"
    assert registry.find("text", "character").Tokenizer is CharacterTokenizer


@pytest.mark.parametrize("kind", ["gtp", "", "_gpt", "gpt.py", "../gpt", "os", 3, None])
def test_an_unknown_kind_lists_the_known_ones(kind: object):
    with pytest.raises(UserError, match=r"there is no model of kind .*: choose from .*gpt"):
        registry.find("models", kind)  # type: ignore[arg-type]


def test_a_module_that_defines_no_tokenizer_is_not_a_kind():
    assert "character" in registry.kinds("text")
    assert "tokenizer" not in registry.kinds("text")
    for folder, name in (("text", "tokenizer"), ("models", "preset"), ("demos", "demo")):
        with pytest.raises(UserError, match=f"(of kind|called) '{name}'"):
            registry.find(folder, name)


def test_the_kind_of_a_thing_is_the_name_of_its_module():
    assert registry.kind_of(CharacterTokenizer("abc")) == "character"
    assert registry.kind_of(registry.find("models", "gpt").Config(9, 5, 4, 2, 1)) == "gpt"


def test_a_tokenizer_is_read_back_by_its_kind():
    tokenizer = CharacterTokenizer("abc")
    assert tokenizer_of(tokenizer.to_dict()) == tokenizer
    for data in ({"kind": "gpt", "characters": "abc"}, {"characters": "abc"}, None):
        with pytest.raises(UserError):
            tokenizer_of(data)


def test_only_the_kind_asked_for_is_imported():
    code = (
        "import sys; from byhand import registry; registry.find('text', 'character');"
        "print([m for m in sys.modules if m.startswith('byhand.models.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_presets_are_found_by_kind_and_name():
    assert preset.find("gpt", "gpt2") is registry.find("models", "gpt").PRESETS["gpt2"]
    with pytest.raises(UserError, match="no preset called 'huge': choose from tiny, guide, "):
        preset.find("gpt", "huge")
