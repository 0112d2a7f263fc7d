"""Seeds and the arguments of samplers reach their draws, and each part of a configuration tells two
runs apart.
"""

from typing import Any

import numpy as np
import pytest

from byhand.data import EpochSampler, RandomSampler, TextData, stratified_folds
from byhand.models.gpt import GPT
from byhand.runs import RunConfig
from byhand.runs.config import Table, TokenizerId
from byhand.text import CharacterTokenizer
from byhand.training.setup import text_trainer
from tests.training import small


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_seed_of_a_run_is_that_of_its_parts(seed: int):
    config = small.config(seed=seed)
    trainer = text_trainer(config, small.TOKENIZER, small.text())
    drawn = RandomSampler(len(trainer.data.train), config.training.batch_size, seed)
    for _ in range(5):
        assert next(trainer.sampler).tolist() == next(drawn).tolist()
    model = GPT(config.model, seed=seed)
    assert trainer.model.storage.values.tobytes() == model.storage.values.tobytes()
    assert trainer.model.generator.state_dict() == model.generator.state_dict()


@pytest.mark.parametrize("seed", [0, 3])
def test_the_sample_of_a_step_has_random_numbers_of_its_own(seed: int):
    trainer = text_trainer(small.config(seed=seed, eval_every=2), small.TOKENIZER, small.text())
    plain = trainer.task.sample
    states = []

    def sample(rng: np.random.Generator, stop: Any = False) -> str | None:
        states.append(rng.bit_generator.state)
        return plain(rng, stop)

    trainer.task.sample = sample  # type: ignore[method-assign]
    trainer.run()
    steps = range(0, 21, 2)
    assert states == [np.random.default_rng([seed, step]).bit_generator.state for step in steps]


SAMPLERS: list[tuple[type, dict[str, Any]]] = [
    (RandomSampler, {"length": 50, "batch_size": 4, "seed": 0}),
    (EpochSampler, {"length": 50, "batch_size": 4, "seed": 0, "drop_last": False}),
]


@pytest.mark.parametrize(("kind", "usual"), SAMPLERS)
def test_every_argument_of_a_sampler_changes_its_draws(kind: Any, usual: dict[str, Any]):
    def draws(**changes: Any) -> list[list[int]]:
        sampler = kind(**{**usual, **changes})
        return [next(sampler).tolist() for _ in range(13)]

    plain = draws()
    assert plain == draws()
    for name, value in {"length": 49, "batch_size": 3, "seed": 1, "drop_last": True}.items():
        if name in usual:
            assert draws(**{name: value}) != plain, name
    assert max(map(max, draws(length=20))) < 20
    assert {len(batch) for batch in draws(batch_size=5)} == {5}


def test_the_defaults_are_seed_0_and_every_item():
    for kind, usual in SAMPLERS:
        one, other = kind(50, 4), kind(**usual)
        assert [next(one).tolist() for _ in range(20)] == [next(other).tolist() for _ in range(20)]
    labels = np.repeat([0, 1], 20)
    for a, b in zip(stratified_folds(labels, 4), stratified_folds(labels, 4, 0), strict=True):
        assert a[1].tolist() == b[1].tolist()
    data, same = TextData(np.arange(100), 4, 2), TextData(np.arange(100), 4, 2, 0.1, None)
    assert data.training_ids.tolist() == same.training_ids.tolist() == list(range(90))
    assert len(list(data.validation())) == len(list(same.validation()))


# --- What a checkpoint fits ----------------------------------------------------------------------


def test_another_tokenizer_is_another_run():
    """The same model with other meanings of its ids."""
    of = small.config()
    letters = small.TOKENIZER.characters
    other = CharacterTokenizer(letters[:-1] + "Z")
    assert len(other) == len(small.TOKENIZER)
    changed = RunConfig(of.kind, of.model, of.training, of.data, TokenizerId.of(other), of.task)
    difference = of.difference(changed)
    assert difference is not None
    assert difference[0] == "tokenizer.sha256"
    assert of.difference(RunConfig(of.kind, of.model, of.training, of.data)) is not None
    assert RunConfig(of.kind, of.model, of.training, of.data).difference(of) is not None
    assert of.difference(small.config()) is None


def test_other_data_are_another_run():
    of = small.config()
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    tables = [
        Table.of("digits", x=x, y=y),
        Table.of("digits", x=x, y=1 - y),
        Table.of("digits", x=x[:2], y=y[:2]),
        Table.of("digits", x=x.astype(np.float32), y=y),
        Table.of("digits", z=x, y=y),
        Table.of("digits", x=x.reshape(3, 1, 2), y=y),
    ]
    configs = [of, *(RunConfig(of.kind, of.model, of.training, table) for table in tables)]
    for i, one in enumerate(configs):
        for j, other in enumerate(configs):
            assert (one.difference(other) is None) == (i == j)
    moved = Table.of("numbers", x=x, y=y)
    assert configs[1].difference(RunConfig(of.kind, of.model, of.training, moved)) is None
