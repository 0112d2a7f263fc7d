"""BERT's training steps on the CUDA kernels, in a graph, beside those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import Bert, BertConfig, optim
from byhand.cli.main import main
from byhand.nn import Module
from byhand.tasks.task import Task
from byhand.training import GraphStep
from tests.cli.test_bert import SIZES as FLAGS
from tests.cli.test_bert import written
from tests.models.bert_batches import LABELS, LOSSES, SIZES, batch, inputs, make, outputs


class OfLoss(Task):
    """The loss of a Bert as a task."""

    def count(self, batch: Any) -> int:
        return 4

    def loss(self, batch: Any, scale: Any) -> Any:
        return self.model.loss(**batch, scale=scale)

    def backward(self) -> None:
        self.model.backward()


def arrays(head: str, seed: int) -> dict[str, np.ndarray]:
    """A batch whose shapes are the same for every seed."""
    made = batch(head, seed)
    if head in ("mlm", "pretraining"):
        at = np.flatnonzero(made["labels"] != -100)
        labels = made["labels"].reshape(-1)[at]
        made["positions"] = np.resize(np.append(at, np.zeros(28, np.int64)), 28)
        made["labels"] = np.resize(np.append(labels, np.full(28, -100)), 28)
    return made


@pytest.mark.parametrize("head", LOSSES)
def test_steps_in_a_graph_equal_those_of_the_cpu(head, cupy):
    config = BertConfig(**SIZES).replace(dropout=0.2)
    results, values = [], []
    for device in ("cpu", "cuda"):
        model = Bert(config, head, LABELS, seed=1).to(device)
        optimizer = optim.AdamW(model, lr=1e-2, eps=1e-5)
        step = GraphStep(OfLoss(model), optimizer, 0.5) if device == "cuda" else None
        found = []
        for seed in range(6):
            made = arrays(head, seed)
            if step is not None:
                step([made])
                continue
            model.zero_grad()
            loss = float(model.loss(**made, scale=1 / 4))
            model.backward()
            found.append((loss, float(optimizer.step(clip_norm=0.5))))
        results.append(found if step is None else step.read())
        values.append(model.storage.values)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)
    np.testing.assert_allclose(values[1].get(), values[0], rtol=1e-3, atol=1e-4)
    assert [graph.launches for graph in cupy.graphs] == [4]


@pytest.mark.parametrize("head", [None, "span", "embedding"], ids=str)
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bf16", 5e-2)])
def test_the_outputs_are_those_of_the_cpu(head, precision, near, cupy):
    host: Module = make(head, dtype="float32", normalize=True)
    device = make(head, dtype="float32", normalize=True, precision=precision).to("cuda")
    made = inputs()
    expected = outputs(host(**made))
    on_device = {name: cupy.asarray(a) for name, a in made.items()}
    found = outputs(device(**on_device))
    seen = np.arange(7) < made["lengths"][:, None]
    for y, z in zip(expected, found, strict=True):
        z = z.get().astype(np.float32)
        rows = seen if y.ndim == 3 or head == "span" else np.ones(4, bool)
        np.testing.assert_allclose(z[rows], y[rows], rtol=near, atol=near)
    gradients = [np.ones_like(y) for y in expected]
    host.backward(*gradients)
    dtype = device.storage.compute_values.dtype
    device.backward(*(cupy.asarray(d.astype(dtype)) for d in gradients))
    grads = device.storage.grads.get()
    scale = np.abs(host.storage.grads).max()
    np.testing.assert_allclose(grads / scale, host.storage.grads / scale, atol=10 * near)


OTHERS = ("masked_lm", "token_classification", "span")
DEEP = [pytest.param(k, marks=pytest.mark.deep) for k in OTHERS]


@pytest.mark.parametrize("kind", ["classification", *DEEP])
def test_the_commands(kind, cupy, tmp_path, capsys):
    """On a GPU all batches have one shape; what was trained there is evaluated on both devices."""
    path, run = str(written(tmp_path, kind)), str(tmp_path / "run")
    assert main(["train", path, "--device", "cuda", "--out", run, *FLAGS]) == 0
    assert "on the GPU" in capsys.readouterr().out
    assert len(cupy.graphs) == 1
    found = []
    for device in ("cpu", "cuda"):
        assert main(["eval", run, "--device", device]) == 0
        found.append(float(capsys.readouterr().out.split(",")[0].split()[1]))
    assert found[0] == pytest.approx(found[1], rel=1e-3)
