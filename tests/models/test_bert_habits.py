"""What is wrong with the arguments of a BERT is one sentence."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from byhand import Bert, BertConfig, GPTConfig
from tests.models.bert_batches import LOSSES, SIZES, batch, inputs, make

I64 = np.int64


def changed(head: str, **changes: Any) -> Any:
    """Calls the loss with these arguments instead of the right ones."""

    def call() -> None:
        made: dict[str, Any] = batch(head)
        for name, change in changes.items():
            made[name] = change(made[name].copy()) if callable(change) else change
        make(head).loss(**made)

    return call


def at(*place: int, value: int) -> Any:
    def change(a: np.ndarray) -> np.ndarray:
        a[place] = value
        return a

    return change


WRONG: list[tuple[Any, type[Exception], str]] = [
    (changed("mlm", ids=at(1, 2, value=19)), IndexError, "ids[1, 2] = 19 is outside the vocab"),
    (changed("mlm", ids=lambda a: a.tolist()), TypeError, "ids must be an int64 array, got list"),
    (changed("mlm", ids=lambda a: a[0]), ValueError, "ids must have shape (B, T), got (7,): use"),
    (changed("mlm", lengths=at(2, value=0)), ValueError, "lengths[2] = 0: a row of nothing but pa"),
    (changed("mlm", lengths=at(2, value=8)), ValueError, "lengths[2] = 8 is outside 0..7"),
    (changed("mlm", lengths=at(2, value=-1)), ValueError, "lengths[2] = -1 is outside 0..7"),
    (changed("mlm", lengths=lambda a: a[:3]), ValueError, "lengths must have shape (4,), got (3,)"),
    (changed("mlm", lengths=[7, 3, 1, 5]), TypeError, "lengths must be an int64 array, got list"),
    (
        changed("mlm", lengths=lambda a: a.astype(np.int32)),
        TypeError,
        "lengths must be int64, got int32: use lengths.astype(np.int64)",
    ),
    (
        changed("mlm", segments=at(0, 0, value=2)),
        IndexError,
        "segments[0, 0] = 2 is outside the se",
    ),
    (changed("mlm", segments=lambda a: a[:, :3]), ValueError, "segments must have shape (4, 7)"),
    (changed("mlm", labels=lambda a: a * 0 - 100), ValueError, "no label counts, all are -100"),
    (changed("tokens", labels=lambda a: a * 0 - 100), ValueError, "no label counts, all are -100"),
    (
        changed("mlm", labels=at(1, 5, value=3)),
        ValueError,
        "labels[1, 5] = 3 is the label of paddi",
    ),
    (changed("mlm", labels=at(0, 2, value=19)), IndexError, "labels[0, 2] = 19 is outside the voc"),
    (
        changed("tokens", labels=at(0, 2, value=5)),
        IndexError,
        "labels[0, 2] = 5 is outside the lab",
    ),
    (
        changed("tokens", labels=lambda a: a[:, :6]),
        ValueError,
        "labels must have shape (4, 7), got",
    ),
    (changed("tokens", positions=np.zeros(3, I64)), ValueError, "'tokens' takes no positions"),
    (changed("mlm", positions=np.array([28])), ValueError, "labels must have shape (1,), got (4,"),
    (
        changed("mlm", positions=np.array([28]), labels=np.array([1])),
        IndexError,
        "positions[0] = 28 is outside the batch 0..27",
    ),
    (
        changed("classification", labels=at(3, value=5)),
        IndexError,
        "labels[3] = 5 is outside the l",
    ),
    (
        changed("classification", labels=at(3, value=-1)),
        IndexError,
        "labels[3] = -1 is outside the",
    ),
    (
        changed("classification", labels=np.full((4, 5), 1.5)),
        ValueError,
        "labels[0, 0] = 1.5 is outside 0..1",
    ),
    (
        changed("classification", labels=np.ones((4, 2))),
        ValueError,
        "labels must have shape (4, 5)",
    ),
    (
        changed("classification", labels=[1, 2, 3, 0]),
        TypeError,
        "labels must be an array, got list",
    ),
    (changed("span", labels=at(2, 1, value=1)), IndexError, "labels[2, 1] = 1 is no position of a"),
    (
        changed("span", labels=at(0, 0, value=-100)),
        IndexError,
        "labels[0, 0] = -100 is no position",
    ),
    (
        changed("span", labels=lambda a: np.array([[4, 2], [0, 0], [0, 0], [0, 0]])),
        ValueError,
        "the span labels[0] ends at 2, before its start at 4",
    ),
    (
        changed("pretraining", next_sentence_label=None),
        ValueError,
        "the head 'pretraining' needs next_sentence_label",
    ),
    (
        changed("mlm", next_sentence_label=np.zeros(4, I64)),
        ValueError,
        "the head 'mlm' takes no next_sentence_label",
    ),
    (
        changed("pretraining", next_sentence_label=at(1, value=2)),
        IndexError,
        "next_sentence_label[1] = 2 is outside the labels 0..1",
    ),
    (changed("mlm", scale="x"), TypeError, "scale must be a number or a 0-d array, got 'x'"),
    (
        lambda: make(None)(np.ones((1, 12), I64)),
        ValueError,
        "12 tokens do not fit the context of 1",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[w[2][:30] for w in WRONG])
def test_a_wrong_argument_is_one_sentence(call, error, message):
    with pytest.raises(error, match=f"^Bert(\\.loss)?: .*{re.escape(message)}") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("head", LOSSES)
def test_an_error_changes_nothing(head):
    model, made = make(head), batch(head)
    wrong = {**made, "ids": made["ids"] + 19}
    with pytest.raises(IndexError):
        model.loss(**wrong)
    assert not model.storage.grads.any()
    model.zero_grad()  # raises if the failed pass had left anything behind
    model.loss(**made)
    model.backward()


@pytest.mark.parametrize(
    ("head", "named"), [(None, "without a head"), ("embedding", "'embedding'")]
)
def test_models_without_a_loss_say_so(head, named):
    with pytest.raises(ValueError, match=f"{named}.* has no loss: take a loss of its outputs"):
        make(head).loss(inputs()["ids"], np.zeros(4, I64))


def test_one_label_is_yes_or_no():
    model = Bert(BertConfig(**SIZES), "classification", 1)
    ids = inputs()["ids"]
    with pytest.raises(ValueError, match=r"with one label, labels must be floats .* \(B, 1\)"):
        model.loss(ids, np.zeros(4, I64))
    assert float(model.loss(ids, np.ones((4, 1), np.float32))) == pytest.approx(0.69, abs=0.1)


def test_a_model_is_made_of_a_configuration():
    how = re.escape("Bert takes a BertConfig, got ")
    for wrong in (17, {"vocab_size": 17}, None, GPTConfig(5, 4, 4, 2, 1)):
        with pytest.raises(TypeError, match=f"^{how}"):
            Bert(wrong)  # type: ignore[arg-type]


def test_backward_fits_the_last_forward_pass():
    model, made = make("mlm"), batch("mlm")
    y = model(made["ids"])
    with pytest.raises(RuntimeError, match=r"model\(ids\), which has no loss: call model\.loss"):
        model.backward()
    with pytest.raises(TypeError, match="takes the gradients of 1 outputs, got 2"):
        model.backward(y, y)
    model.loss(**made)
    with pytest.raises(RuntimeError, match=r"the last forward pass was loss\(...\)"):
        model.backward(y)
    model.backward()
    model.backward(np.ones_like(y))
    with pytest.raises(RuntimeError, match="without a forward pass"):
        model.backward()
    model.inference()(made["ids"])
    with pytest.raises(RuntimeError, match="keep nothing"):
        model.backward()
    model.zero_grad()  # nothing waits


def test_tensors_of_pytorch_are_taken():
    torch = pytest.importorskip("torch")
    model, made = make("mlm"), batch("mlm")
    plain = float(model.loss(**made))
    model.discard_saved()
    assert float(model.loss(**{name: torch.from_numpy(a) for name, a in made.items()})) == plain
