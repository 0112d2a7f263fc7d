"""The tasks of BERT: each loss falls, each metric is right on cases made by hand, and a run that
was stopped continues bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import Bert, BertConfig, data, optim, runs, training
from byhand.data.splits import Splits
from byhand.runs.checkpoint import read
from byhand.runs.config import RunConfig, Table
from byhand.tasks import Classification, MaskedLM, Pretraining, Span, TokenClassification
from byhand.tasks.span import best_span, exact_match, f1_of, normalised
from byhand.tasks.token_classification import entities
from byhand.text import WordPieceTokenizer
from byhand.training import Trainer, TrainingSettings, evaluate

NOUNS = "cat dog bird fish tree house river stone king queen child farmer".split()
VERBS = "sees likes follows paints carries hears".split()
PLACES = "paris london rome tokyo oslo".split()
GOOD, BAD = "great lovely fine bright".split(), "awful dull broken grim".split()
MANY = " ".join([*NOUNS, *VERBS, *PLACES, *GOOD, *BAD, "the in where is was"])
TOKENIZER = WordPieceTokenizer.train([MANY] * 3, 400)
SPECIAL = [TOKENIZER.encode("", True)[0], TOKENIZER.sep_token_id, TOKENIZER.pad_token_id, 1]


def sentences(n: int, seed: int = 0) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [
        ["the", rng.choice(NOUNS), rng.choice(VERBS), "the", rng.choice(NOUNS), "in",
         rng.choice(PLACES)]
        for _ in range(n)
    ]  # fmt: skip


def ids_of(words: list[str]) -> np.ndarray:
    return TOKENIZER.encode(" ".join(words))


def masked_data() -> tuple[Any, Any]:
    rows = data.SequenceDataset(map(ids_of, sentences(200)), TOKENIZER.pad_token_id)
    made = data.MaskedDataset(rows, TOKENIZER.mask_token_id, len(TOKENIZER), SPECIAL, seed=1)
    return made, made


def pairs_data() -> tuple[Any, Any]:
    """Each document is about one place; about 91 % of the pairs can be known."""
    rng = np.random.default_rng(0)
    documents = []
    for d in range(30):
        place = PLACES[d % 5]
        rows = [["the", place, rng.choice(VERBS), "the", place] for _ in range(6)]
        documents.append(
            [TOKENIZER.encode(" ".join(row), add_special_tokens=False) for row in rows]
        )
    rng.shuffle(documents)
    cls, sep, pad = SPECIAL[:3]
    pairs = data.SentencePairs(documents, cls, sep, 24, pad)
    made = data.MaskedDataset(pairs, TOKENIZER.mask_token_id, len(TOKENIZER), SPECIAL, variants=1)
    return made, made


def reviews() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    made = []
    for row in sentences(200):
        good = bool(rng.integers(2))
        at = rng.integers(len(row))
        row = [*row[:at], rng.choice(GOOD if good else BAD), *row[at:]]
        made.append({"text": " ".join(row), "label": "good" if good else "bad"})
    whole = data.classified(made, TOKENIZER, 16)
    return whole, whole


def places() -> tuple[Any, Any]:
    made = [
        {"tokens": row, "tags": ["O", "B-X", "O", "O", "B-X", "O", "B-PLACE"]}
        for row in sentences(200)
    ]
    whole = data.tagged(made, TOKENIZER, 32)
    return whole, whole


def questions() -> tuple[Any, Any]:
    made = [
        {"question": f"where is the {row[1]}", "context": " ".join(row), "answer": row[-1]}
        for row in sentences(200)
    ]
    whole = data.QuestionDataset(made, TOKENIZER, 40)
    return whole, whole


CASES: dict[str, tuple[Callable[[], Any], str, int, str]] = {
    "masked_lm": (masked_data, "mlm", 2, "accuracy"),
    "pretraining": (pairs_data, "pretraining", 2, "masked_accuracy"),
    "classification": (reviews, "classification", 2, "f1"),
    "token_classification": (places, "tokens", 3, "f1"),
    "span": (questions, "span", 2, "exact_match"),
}


def task_of(kind: str, model: Bert, made: Any) -> Any:
    if kind == "span":
        return Span(model, made)
    if kind == "token_classification":
        return TokenClassification(model, ["B-PLACE", "B-X", "O"])
    kinds: dict[str, Any] = {
        "masked_lm": MaskedLM,
        "pretraining": Pretraining,
        "classification": Classification,
    }
    return kinds[kind](model)


def new_trainer(
    kind: str, folder: Path | None = None, steps: int = 20, accumulate: int = 1, **options: Any
) -> Trainer:
    make, head, labels, _ = CASES[kind]
    whole, _ = make()
    config = BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
        context_size=40, head=head, num_labels=labels, dropout=0.05,
    ).replace(**options)  # fmt: skip
    settings = TrainingSettings(
        steps=steps, batch_size=16, accumulate=accumulate, lr=3e-3, warmup=min(10, steps),
        eval_every=max(steps // 2, 1), weight_decay=0.01,
    )  # fmt: skip
    model = Bert(config, seed=0)
    run = None
    if folder is not None:
        run = runs.Run(folder)
        table = Table.of("made", lengths=np.arange(3))
        run.create(RunConfig("bert", config, settings, table, task=kind))
    if kind == "span":
        held_out = list(whole.batches_of_questions(64))[:2]
    else:
        held_out = [whole.batch(np.arange(100))]
    sampler: Any = data.RandomSampler(len(whole), 16, seed=1)
    if hasattr(whole, "lengths"):
        sampler = data.LengthSampler(whole.lengths, 16, seed=1)
    return Trainer(
        task_of(kind, model, whole),
        Splits(whole, lambda: held_out),
        sampler,
        optim.AdamW(model, lr=3e-3, weight_decay=0.01),
        optim.WarmupCosine(3e-3, settings.warmup, steps, 1e-4),
        settings,
        run,
    )


@pytest.mark.parametrize("kind", CASES)
def test_the_loss_falls_and_the_metric_rises(kind):
    trainer = new_trainer(kind, steps=200)
    trainer.run()
    records = [r for r in trainer.history if "validation_loss" in r]
    assert records[-1]["validation_loss"] < 0.8 * records[0]["validation_loss"]
    name = f"validation_{CASES[kind][3]}"
    least = {"masked_lm": 0.3, "pretraining": 0.3}.get(kind, 0.95)
    assert records[-1][name] > max(least, records[0][name])


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("stop", [3, 10])
def test_a_run_that_was_stopped_resumes_bit_for_bit(kind, stop, tmp_path):
    whole, apart = tmp_path / "whole", tmp_path / "apart"
    new_trainer(kind, whole, 14, accumulate=2).run()

    class Stop(training.Callback):
        def on_repeat(self, trainer, step):
            if step == stop:
                os.kill(os.getpid(), 2)

    trainer = new_trainer(kind, apart, 14, accumulate=2)
    trainer.callbacks.append(Stop())
    assert trainer.run() is not None
    run = runs.Run(apart)
    saved = run.read_checkpoint("last", run.read_config())
    assert saved.state["step"] == stop
    again = new_trainer(kind, tmp_path / "made anew", 14, accumulate=2)
    again.run_folder = run
    again.restore(saved, "last")
    again.cut_log()
    assert again.run() is None
    for name in ("best.safetensors", "last.safetensors"):
        one, other = read(whole / name), read(apart / name)
        assert one.tensors.keys() == other.tensors.keys()
        for tensor in one.tensors:
            assert one.tensors[tensor].tobytes() == other.tensors[tensor].tobytes(), tensor
    loaded = runs.load(apart, "last")
    assert isinstance(loaded, Bert)
    assert loaded.config.head == CASES[kind][1]
    assert loaded.storage.values.tobytes() == again.model.storage.values.tobytes()


@pytest.mark.parametrize("kind", ["masked_lm", "classification", "token_classification", "span"])
def test_micro_batches_equal_one_larger_batch(kind):
    grads = []
    for parts in (1, 3):
        trainer = new_trainer(kind, dropout=0.0)
        task, model = trainer.task, trainer.model.to(dtype="float64")
        made = trainer.data.train.batch(np.arange(12))
        pieces = [{n: a[i::parts] for n, a in made.items()} for i in range(parts)]
        units = sum(task.count(piece) for piece in pieces)
        assert units == task.count(made)
        for piece in pieces:
            task.check(piece)
            task.loss(piece, 1 / units)
            task.backward()
        grads.append(model.storage.grads.copy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-8, atol=1e-12)


# --- Metrics --------------------------------------------------------------------------------------


class Fixed:
    """The answers of a model, for metrics."""

    def __init__(self, task: Any, y: Any):
        self.task, self.y = task, y

    def metrics(self, batch: Any) -> dict[str, tuple[float, int]]:
        model = self.task.model
        with model.in_inference():
            model.__dict__["forward"] = lambda **fields: self.y
            try:
                if isinstance(self.task, Classification):
                    return self.task.metrics(batch)
                model.__dict__["loss"] = lambda **fields: 0.0
                return self.task.metrics(batch)
            finally:
                for name in ("forward", "loss"):
                    model.__dict__.pop(name, None)


def logits(best: Any, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[np.array(best)] * 9


def small(head: str, labels: int = 2) -> Bert:
    config = BertConfig(30, 12, 1, 3, 8, context_size=12, dropout=0.0)
    return Bert(config, head, labels)


def test_accuracy_and_f1_of_two_classes():
    task = Classification(small("classification"))
    batch = {"ids": np.ones((5, 3), np.int64), "labels": np.array([1, 1, 1, 0, 0])}
    found = Fixed(task, logits([1, 1, 0, 1, 0], 2)).metrics(batch)
    assert found["accuracy"] == (3.0, 5)
    assert found["f1"] == (4.0, 6)  # 2 true positives; 3 found, 3 there


def test_accuracy_and_f1_of_several_labels():
    task = Classification(small("classification", 3))
    labels = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], np.float32)
    batch = {"ids": np.ones((3, 3), np.int64), "labels": labels}
    y = np.array([[1, -1, 1], [-1, 2, -3], [1, -1, -1]], np.float32)
    found = Fixed(task, y).metrics(batch)
    assert found["accuracy"] == (1.0, 3)
    assert found["f1"] == (6.0, 4 + 4)
    expected = np.mean(np.log1p(np.exp(-np.abs(y))) + np.maximum(y, 0) - y * labels, 1).sum()
    assert found["loss"] == (pytest.approx(expected, rel=1e-5), 3)
    loss = float(task.loss({**batch, "ids": batch["ids"]}, 1 / 3))
    with task.model.no_save():
        direct = float(task.model.loss(batch["ids"], labels))
    assert loss == pytest.approx(direct, rel=1e-6)
    task.backward()


def test_entities_need_the_right_words_and_the_right_kind():
    tags = "O B-PER I-PER O I-LOC B-LOC I-PER B-PER".split()
    assert entities(tags) == {
        ("PER", 1, 3), ("LOC", 4, 5), ("LOC", 5, 6), ("PER", 6, 7), ("PER", 7, 8),
    }  # fmt: skip
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    task = TokenClassification(small("tokens", 4), names)
    labels = np.array([[-100, 1, 2, -100, 0, 3, -100]])
    batch = {"ids": np.ones((1, 7), np.int64), "labels": labels}
    found = Fixed(task, logits([[0, 1, 2, 3, 0, 1, 0]], 4)).metrics(batch)
    assert found["accuracy"] == (3.0, 4)
    assert found["f1"] == (2.0, 4)  # one of two is right
    found = Fixed(task, logits([[0, 1, 0, 2, 0, 3, 0]], 4)).metrics(batch)
    assert found["f1"] == (2.0, 4)  # the person is cut short, the place is right
    plain = TokenClassification(small("tokens", 4))
    assert "f1" not in Fixed(plain, logits([[0] * 7], 4)).metrics(batch)
    with pytest.raises(ValueError, match="there are 2 labels, and the model has 4"):
        TokenClassification(small("tokens", 4), ["a", "b"])


def test_answers_are_compared_as_squad_does():
    assert normalised(" The  cat's, an A-ha! ") == "cats aha"
    assert exact_match("the Cat.", "cat")
    assert not exact_match("cats", "cat")
    assert f1_of("the black cat", "cat") == pytest.approx(2 / 3)
    assert f1_of("cat cat dog", "cat bird cat") == pytest.approx(4 / 6)
    assert (f1_of("", ""), f1_of("", "cat"), f1_of("the", "")) == (1.0, 0.0, 1.0)


def test_the_best_span_ends_after_its_start():
    start, end = np.array([0.0, 5.0, 1.0, 4.0]), np.array([9.0, 0.0, 2.0, 1.0])
    assert best_span(start, end, 30) == (9.0, 0, 0)
    assert best_span(np.array([0.0, 5, 4, 4]), np.array([3.0, 0, 2, 1]), 30) == (7.0, 1, 2)
    assert best_span(np.array([5.0, 0, 0]), np.array([0.0, 0, 9]), 2) == (9.0, 1, 2)


def test_the_best_window_answers_the_question():
    context = " ".join([*NOUNS, *VERBS, *PLACES])
    examples = [
        {"question": "where", "context": context, "answer": ["king queen", "queen"]},
        {"question": "where", "context": "the cat", "answer": ""},
    ]
    made = data.QuestionDataset(examples, TOKENIZER, 24, stride=6)
    (batch,) = made.batches_of_questions(100)
    task = Span(Bert(BertConfig(len(TOKENIZER), 12, 1, 3, 8, context_size=24), "span"), made)
    start = np.zeros(batch["ids"].shape, np.float32)
    end = start.copy()
    windows = [w for w in range(len(made)) if batch["labels"][w].any()]
    assert 0 < len(windows) < len(made) - 1
    window = windows[0]
    first, last = batch["labels"][window]
    start[window, first], end[window, last] = 3, 3
    start[-1, 0] = end[-1, 0] = 4  # [CLS]: there is no answer
    found = Fixed(task, (start, end)).metrics(batch)
    assert found["exact_match"] == (2.0, 2)
    assert found["f1"] == (2.0, 2)
    end[window, last] = 0
    end[window, first] = 3
    with task.model.in_inference():
        task.model.__dict__["forward"] = lambda **fields: (start, end)
        answer = task.answers(batch)[0]
        del task.model.__dict__["forward"]
    found = Fixed(task, (start, end)).metrics(batch)
    assert found["exact_match"] == (1.0 + exact_match(answer, "king queen"), 2)
    assert found["f1"][0] == pytest.approx(
        1 + max(f1_of(answer, a) for a in ["king queen", "queen"])
    )


def test_the_accuracy_of_masked_tokens_counts_them_only():
    made, _ = masked_data()
    batch = made.batch(np.arange(50))
    task = MaskedLM(Bert(BertConfig(len(TOKENIZER), 12, 1, 3, 8, context_size=40), "mlm"))
    count = task.count(batch)
    assert count == (batch["labels"] != -100).sum()
    with task.model.in_inference():
        y = task.model(batch["ids"], batch["lengths"])
        right = ((y.argmax(-1) == batch["labels"]) & (batch["labels"] != -100)).sum()
        found = task.metrics(batch)
    assert found["accuracy"] == (float(right), count)
    fixed = data.MaskedDataset(
        made.rows, made.mask, len(TOKENIZER), SPECIAL, seed=1, most=40
    ).batch(np.arange(50))
    with task.model.in_inference():
        same = task.metrics(fixed)
    assert same["accuracy"] == found["accuracy"]
    assert same["loss"][0] == pytest.approx(found["loss"][0], rel=1e-5)
    nothing = {**batch, "labels": np.full_like(batch["labels"], -100)}
    assert task.count(nothing) == 0
    with task.model.in_inference():
        assert task.metrics(nothing) == {"loss": (0.0, 0), "accuracy": (0.0, 0)}


def test_a_sample_shows_what_is_put_for_the_masked_tokens():
    made, _ = masked_data()
    model = Bert(BertConfig(len(TOKENIZER), 12, 1, 3, 8, context_size=40), "mlm").inference()
    shown = MaskedLM(model, TOKENIZER, made).sample(np.random.default_rng(0))
    assert shown is not None
    assert "; it was " in shown
    assert MaskedLM(model).sample(np.random.default_rng(0)) is None


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked_lm", "pretraining", "token_classification", "span"])
def test_a_model_with_another_head_is_refused(kind):
    head = CASES[kind][1]
    with pytest.raises(TypeError, match=f"takes a model with the head '{head}', got a head 'class"):
        task_of(kind, small("classification", 3), None)


@pytest.mark.parametrize("kind", CASES)
def test_a_wrong_batch_is_named(kind):
    trainer = new_trainer(kind)
    good = trainer.data.train.batch(np.arange(4))
    trainer.task.check(good)
    wrong = {**good, "ids": good["ids"] + 1000}
    with pytest.raises(IndexError, match=r"Bert: ids\[0, 0\] = .* is outside the vocabulary"):
        trainer.task.check(wrong)
    with pytest.raises(ValueError, match="the batch must have 'labels', and has"):
        trainer.task.check({name: a for name, a in good.items() if name != "labels"})
    with pytest.raises(TypeError, match="a batch must be a dict of arrays"):
        trainer.task.check(good["ids"])
    if kind != "pretraining":
        with pytest.raises((ValueError, IndexError), match=r"Bert: .*labels"):
            trainer.task.check({**good, "labels": good["labels"] + 500})
    assert evaluate(trainer.task, [good]) is not None
