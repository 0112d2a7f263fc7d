"""How much the training loss fluctuates with batches of all, some and single examples."""

from __future__ import annotations

import math

import numpy as np

from byhand import optim
from byhand.data import ArrayDataset, EpochSampler
from byhand.demos import demo
from byhand.models.mlp import MLP, MLPConfig
from byhand.tasks import Classification

EXAMPLES, STEPS = 500, 400
MODES = {"whole data set": EXAMPLES, "mini-batch": 64, "one example": 1}


class Batches(demo.Demo):
    about = "the loss of all examples, of mini-batches and of single examples"
    rows = ("D03",)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((EXAMPLES, 2), dtype=np.float32)
        self.data = ArrayDataset(x=x, labels=(x[:, 0] > x[:, 1] ** 2 - 0.5).astype(np.int64))
        self.deviation = {name: self._of_untrained(size) for name, size in MODES.items()}
        self.losses = {name: self._trained(size) for name, size in MODES.items()}
        sampler = EpochSampler(EXAMPLES, MODES["mini-batch"])
        self.epoch = [len(next(sampler)) for _ in range(-(-EXAMPLES // sampler.batch_size))]

    def _of_untrained(self, size: int) -> float:
        """The standard deviation of the loss of batches, all with the same weights."""
        task = Classification(MLP(MLPConfig(2, 2, (8,)), seed=1).inference())
        sampler = EpochSampler(EXAMPLES, size, drop_last=True)
        batches = (self.data.batch(next(sampler)) for _ in range(EXAMPLES))
        return float(np.std([float(task.loss(batch, 1 / size)) for batch in batches]))

    def _trained(self, size: int) -> list[float]:
        task = Classification(MLP(MLPConfig(2, 2, (8,)), seed=1))
        optimizer = optim.SGD(task.model, lr=0.1)
        sampler, losses = EpochSampler(EXAMPLES, size), []
        for _ in range(STEPS):
            batch = self.data.batch(next(sampler))
            task.model.zero_grad()
            losses.append(float(task.loss(batch, 1 / task.count(batch))))
            task.backward()
            optimizer.step()
        return losses

    def text(self) -> str:
        one = self.deviation["one example"]
        rows: list[tuple[object, ...]] = [("", "batch", "deviation", "expected", "last losses")]
        for name, size in MODES.items():
            expected = one * math.sqrt((EXAMPLES - size) / (EXAMPLES - 1) / size)
            last = ", ".join(f"{loss:.2f}" for loss in self.losses[name][-5:])
            rows.append((name, size, self.deviation[name], expected, last))
        return (
            f"{EXAMPLES} examples of two classes. The standard deviation of a batch's loss is that "
            "of one\nexample times sqrt((N - B) / (N - 1) / B), for B of N examples, each drawn "
            f"once. Last losses:\nof {STEPS} steps of SGD.\n\n{demo.table(rows)}\n\n"
            f"A pass over all examples in mini-batches: {' '.join(map(str, self.epoch))}\n"
            "The last batch is smaller, because the batch size does not divide the examples."
        )

    def draw(self, figure: demo.Figure) -> None:
        axes = figure.add_subplot(title="training loss", xlabel="step", ylabel="nats per example")
        for name, width in (("one example", 0.5), ("mini-batch", 1.5), ("whole data set", 1.5)):
            axes.plot(range(1, STEPS + 1), self.losses[name], label=name, linewidth=width)
        axes.set_ylim(0, 2)
        axes.legend()
        axes.grid(True, alpha=0.3)


Demo = Batches
