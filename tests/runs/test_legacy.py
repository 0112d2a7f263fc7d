"""Runs in format 1. `data/format1` was trained and saved by byhand 0.1, which also wrote the sums
and the logits in expected.json.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.models.gpt import GPT, GPTConfig
from byhand.runs import Run, RunConfig, checkpoint, load, load_trained
from byhand.runs.legacy import upgrade_checkpoint
from byhand.text import CharacterTokenizer

FOLDER = Path(__file__).parent / "data" / "format1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def new_name(old: str) -> str:
    return old if old.startswith("head.") else f"decoder.{old}"


def test_weights_and_moments_get_the_right_names():
    found = checkpoint.read(FOLDER / "last.safetensors")
    names = {new_name(name): expected for name, expected in EXPECTED["parameters"].items()}
    weights, m, v = (found.group(part) for part in ("model", "optimizer.m", "optimizer.v"))
    assert weights.keys() == m.keys() == v.keys() == names.keys()
    assert len(found.tensors) == 3 * len(names)
    assert len({expected["m"] for expected in names.values()}) == len(names), "all distinct"
    for name, expected in names.items():
        for tensor, total in ((weights, "sum"), (m, "m"), (v, "v")):
            assert tensor[name].shape == tuple(expected["shape"])
            assert tensor[name].sum(dtype=np.float64) == pytest.approx(expected[total], rel=1e-12)
        assert m[name].reshape(-1)[-1] == np.float32(expected["last_m"])


def test_the_model_computes_the_same_logits():
    trained = load_trained(FOLDER, "last")
    assert trained.step == 4
    logits = trained.model(np.array([EXPECTED["prompt"]]))[0, -1]
    np.testing.assert_allclose(logits, EXPECTED["logits"], rtol=1e-5, atol=1e-6)
    assert load(FOLDER, "last").tokenizer == CharacterTokenizer("\n abehinoqrstu")


def test_the_configuration_is_converted():
    run = Run(FOLDER)
    config = run.read_config()
    assert (config.kind, config.task) == ("gpt", "language_model")
    assert config.model == GPTConfig(14, 6, 8, 2, 1, dropout=0.1, tie_weights=False)
    assert config.training.lr == 0.02
    assert (config.data.name, config.data.characters) == ("text", 2000)
    saved = run.read_checkpoint("last", config)
    assert RunConfig.from_dict(saved.state["config"]) == config
    assert saved.state["step"] == 4


def test_a_converted_run_is_written_in_the_present_format(tmp_path: Path):
    run = Run(shutil.copytree(FOLDER, tmp_path / "run"))
    config, tokenizer = run.read_config(), run.read_tokenizer()
    saved = run.read_checkpoint("last", config)
    run.write_config(config, tokenizer)
    run.save_checkpoint("last", checkpoint.pack(saved.tensors, saved.state))
    assert json.loads(run.config_path.read_text())["format"] == 2
    again = Run(run.folder)
    assert again.read_config() == config
    assert again.read_tokenizer() == tokenizer
    assert load(run.folder, "last").state_dict().keys() == saved.group("model").keys()


def format_1(layers: int, bias: bool, tied: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of format 1 in which element i of the flat moments is i, and where each element
    belongs: {new name: the numbers of its elements}.
    """
    model = GPT(GPTConfig(9, 5, 4, 2, layers, use_bias=bias, tie_weights=tied))
    parameters = dict(model.named_parameters())
    blocks = [f"decoder.blocks.{i}." for i in range(layers)]
    inner = ("norm1", "attention.qkv", "attention.project", "norm2", "ffn.up", "ffn.down")
    modules = ["decoder.tokens", "decoder.positions"]
    modules += [block + name for block in blocks for name in inner]
    modules += ["decoder.norm", "head"]
    names = [f"{m}.{kind}" for m in modules for kind in ("weight", "bias")]
    names = [name for name in names if name in parameters]
    assert sorted(names) == sorted(parameters)
    matrices = [name for name in names if parameters[name].value.ndim == 2]
    order = matrices + [name for name in names if name not in matrices]
    places, at = {}, 0
    for name in order:
        size = parameters[name].value.size
        places[name] = np.arange(at, at + size, dtype=np.float32)
        at += size
    tensors = {f"model.{name.removeprefix('decoder.')}": p.value for name, p in parameters.items()}
    flat = np.arange(at, dtype=np.float32)
    return tensors | {"optimizer.m": flat, "optimizer.v": -flat}, places


CONFIG = json.loads((FOLDER / "config.json").read_text())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layers", [1, 12])
def test_every_element_of_the_moments_finds_its_place(layers: int, bias: bool, tied: bool):
    tensors, places = format_1(layers, bias, tied)
    upgraded, _ = upgrade_checkpoint(tensors, {"config": CONFIG})
    for name, place in places.items():
        assert upgraded[f"optimizer.m.{name}"].reshape(-1).tolist() == place.tolist()
        assert upgraded[f"optimizer.v.{name}"].reshape(-1).tolist() == (-place).tolist()
        old = tensors[f"model.{name.removeprefix('decoder.')}"]
        assert upgraded[f"model.{name}"].tobytes() == old.tobytes()
    assert len(upgraded) == 3 * len(places)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: t.pop("optimizer.v"), "the tensor optimizer.v is missing"),
        (lambda t, s: t.update({"optimizer.m": t["optimizer.m"][1:]}), "optimizer.m has shape"),
        (lambda t, s: t.pop("model.head.weight"), "optimizer.m has shape"),
        (lambda t, s: t.update({"model.blocks.x": np.zeros(1)}), "no tensor model.blocks.x"),
        (lambda t, s: t.update({"optimizer.w": np.zeros(1)}), "no tensor optimizer.w"),
        (lambda t, s: s.pop("config"), "configuration is missing"),
        (lambda t, s: s["config"].pop("corpus"), "'corpus' is missing"),
        (lambda t, s: s["config"].update(tokenizer={}), "does not say of which kind"),
    ],
)
def test_wrong_content_is_refused(change: Callable[[Any, Any], Any], words: str):
    tensors, _ = format_1(1, True, False)
    state = {"config": json.loads(json.dumps(CONFIG))}
    change(tensors, state)
    with pytest.raises(UserError, match=words):
        upgrade_checkpoint(tensors, state)


def test_a_damaged_config_of_format_1_is_refused(tmp_path: Path):
    run = Path(shutil.copytree(FOLDER, tmp_path / "run"))
    data = json.loads((run / "config.json").read_text())
    for name in ("model", "training", "corpus", "tokenizer"):
        damaged = {key: value for key, value in data.items() if key != name}
        (run / "config.json").write_text(json.dumps(damaged))
        with pytest.raises(UserError, match=f"config.json cannot be used: .*{name}.* is missing"):
            load(run, "last")
