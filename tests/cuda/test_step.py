"""A GPT's training step on the CUDA kernels, through the same Python code as on the CPU."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from byhand import GPT, MLP, GPTConfig, MLPConfig, optim
from byhand.data import consecutive_windows
from byhand.generation import generate
from byhand.tasks import Classification, LanguageModel, Regression
from byhand.training import Diverged, GraphStep, evaluate
from byhand.training.memory_plan import lay_out
from tests.cuda.cupy_double import Unsafe

CONFIG = GPTConfig(vocabulary_size=19, context_size=12, embedding_dim=24, num_heads=3, num_layers=2)


def made(
    device: str, precision: str = "float32", eps: float = 1e-5, **changes: Any
) -> tuple[Any, optim.AdamW]:
    """A task and its optimizer. eps: with AdamW's usual one it makes a whole step out of the
    rounding error of a gradient near 0.
    """
    model = GPT(CONFIG.replace(**changes), seed=4, precision=precision).to(device)
    optimizer = optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), eps=eps, weight_decay=0.1)
    return LanguageModel(model), optimizer


def batches(steps: int, each: int = 1, ignored: bool = False) -> list[list[dict[str, Any]]]:
    """With `ignored` every batch has a different number of ignored targets."""
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, CONFIG.vocabulary_size, (steps, each, 2, 3, 12))
    if ignored:
        for pair in drawn.reshape(-1, 2, 36):
            pair[1, : rng.integers(36)] = -100
    return [[{"ids": ids, "targets": targets} for ids, targets in step] for step in drawn]


def eager(task: Any, optimizer: optim.AdamW, batches: Any) -> tuple[float, float]:
    """The same step, written by hand."""
    task.model.zero_grad()
    loss, scale = 0.0, 1 / sum(task.count(batch) for batch in batches)
    for batch in batches:
        loss += float(task.loss(batch, scale))
        task.backward()
    return loss, float(optimizer.step(clip_norm=0.5))


@pytest.mark.deep
@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"dropout": 0.2}, {"tie_weights": False, "use_bias": False}]
)
def test_ten_steps_equal_those_of_the_cpu(each, ignored, changes, cupy):
    host, expected = made("cpu", **changes), []
    task, optimizer = made("cuda", **changes)
    model = task.model
    step = GraphStep(task, optimizer, clip_norm=0.5)
    for i, step_batches in enumerate(batches(10, each, ignored)):
        host[1].lr = lr = 3e-3 / (1 + i)
        expected.append(eager(*host, step_batches))
        step(step_batches, lr)
    np.testing.assert_allclose(step.read(), expected, rtol=2e-5)
    on_host = host[0].model.storage.values
    np.testing.assert_allclose(model.storage.values.get(), on_host, rtol=1e-4, atol=1e-5)
    assert optimizer.step_count == host[1].step_count == 10
    assert not model.storage.grads.get().any()
    # Captured in the third step.
    assert [graph.launches for graph in cupy.graphs] == {1: [8], 3: [16, 8]}[each]
    assert model.generator.state_dict() == host[0].model.generator.state_dict()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_neither_allocates_nor_waits(dropout, cupy):
    step = GraphStep(*made("cuda", dropout=dropout), clip_norm=0.5)
    for step_batches in batches(3, 2):
        step(step_batches)
    before = cupy.machine.allocations, cupy.machine.waits
    for step_batches in batches(5, 2):
        step(step_batches)
    assert (cupy.machine.allocations, cupy.machine.waits) == before
    assert len(step.read()) == 8
    assert cupy.machine.waits == before[1] + 1


def looks(array: Any) -> None:
    float(array.reshape(-1)[0])


def allocates(array: Any) -> None:
    import cupy

    cupy.get_default_memory_pool().malloc(8)


def sends(array: Any) -> None:
    array.set(np.zeros(array.shape, array.dtype))


@pytest.mark.parametrize("bug", [looks, allocates, sends])
def test_the_stand_in_notices_a_step_that_cannot_be_captured(bug, cupy, monkeypatch):
    task, optimizer = made("cuda")
    step = GraphStep(task, optimizer)
    norm = task.model.decoder.norm.forward

    def forward(x: Any) -> Any:
        y = norm(x)
        bug(y)
        return y

    monkeypatch.setattr(task.model.decoder.norm, "forward", forward)
    first, second, third = batches(3)
    step(first)
    step(second)
    with pytest.raises(Unsafe):
        step(third)
    assert cupy.machine.captured is None


def test_a_step_whose_allocations_change_is_noticed(cupy, monkeypatch):
    task, optimizer = made("cuda")
    step = GraphStep(task, optimizer)
    steps = batches(3)
    for step_batches in steps[:2]:
        step(step_batches)
    last = task.model.decoder.norm
    norm = last.forward
    monkeypatch.setattr(last, "forward", lambda x: norm(norm(x)))
    with pytest.raises(RuntimeError, match=r"^allocation \d+ of the step is of \d+ bytes, and was"):
        step(steps[2])


def test_recomputed_blocks_need_less_memory_for_the_same_bits(cupy):
    planned, values = [], []
    for recompute in (False, True):
        task, optimizer = made("cuda", num_layers=6, dropout=0.2)
        model = task.model
        model.decoder.recompute = recompute
        step = GraphStep(task, optimizer)
        for step_batches in batches(5):
            step(step_batches)
        planned.append(step.planned_bytes)
        values.append(model.storage.values.get().tobytes())
    assert values[0] == values[1]
    assert planned[1] < planned[0] / 2


def test_the_plan_is_the_peak_and_not_the_sum(cupy):
    task, optimizer = made("cuda", num_layers=6)
    step = GraphStep(task, optimizer)
    assert step.planned_bytes == 0
    for step_batches in batches(2):
        step(step_batches)
    plan = step._updating.plan
    assert step.planned_bytes == plan.nbytes
    assert max(plan._sizes) < plan.nbytes < 0.5 * sum(plan._sizes)


def test_two_graphs_share_the_memory_of_the_larger(cupy):
    task, optimizer = made("cuda", num_layers=6)
    step = GraphStep(task, optimizer, clip_norm=0.5)
    first, second, third = batches(3, 2)
    step(first)
    before = cupy.machine.used
    step(second)
    adding, updating = step._adding.plan.nbytes, step._updating.plan.nbytes
    assert 0 < adding <= updating == step.planned_bytes
    assert cupy.machine.used == before + updating
    step(third)
    assert cupy.machine.used == before + updating
    assert step._adding.plan._block is step._updating.plan._block


def test_in_bf16_the_losses_are_those_of_float32(cupy):
    """Weights and activations are kept in bfloat16, beside weights in float32."""
    host = made("cpu", eps=1e-8)
    task, optimizer = made("cuda", "bf16", eps=1e-8)
    model = task.model
    step = GraphStep(task, optimizer, clip_norm=0.5)
    repeated = batches(5) * 8
    for step_batches in repeated:
        step(step_batches)
    losses = np.array(step.read())[:, 0]
    expected = np.array([eager(*host, step_batches)[0] for step_batches in repeated])
    np.testing.assert_allclose(losses, expected, atol=0.01)
    assert expected[-1] < expected[0] - 0.3
    assert not np.array_equal(losses, expected.astype(np.float32))
    storage = model.storage
    assert storage.values.dtype == storage.grads.dtype == np.float32
    assert model.decoder.tokens.weight.compute_value.dtype == "bfloat16"
    kept = storage.values.get().astype(storage.compute_values.dtype)
    assert storage.compute_values.get().tobytes() == kept.tobytes()
    assert model.new_cache().layers[0].keys.dtype == "bfloat16"


def test_weights_that_are_loaded_reach_their_bfloat16_copies(cupy):
    task, _ = made("cuda", "bf16")
    model = task.model
    model.load_state_dict({name: p.get() + 1 for name, p in model.state_dict().items()})
    storage = model.storage
    kept = storage.values.get().astype(storage.compute_values.dtype)
    assert storage.compute_values.get().tobytes() == kept.tobytes()
    model.precision = "float32"
    assert storage.compute_values is storage.values
    model.precision = "bf16"
    model.to("cpu")
    weight = model.decoder.tokens.weight
    assert weight.compute_value is weight.value


def test_freezing_keeps_the_bfloat16_copy(cupy):
    task, _ = made("cuda", "bf16")
    model = task.model
    model.freeze("decoder.blocks.*")
    step = GraphStep(task, optim.AdamW(model, lr=1e-2), clip_norm=0.5)
    for step_batches in batches(5):
        step(step_batches)
    assert np.isfinite(step.read()).all()
    storage = model.storage
    kept = storage.values.get().astype(storage.compute_values.dtype)
    assert storage.compute_values.get().tobytes() == kept.tobytes()


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("kind", [Classification, Regression])
def test_the_steps_of_an_mlp_equal_those_of_the_cpu(kind, each, cupy):
    """Other tasks, another model, and batches of other names through the same graph."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8, each, 6, 5)).astype(np.float32)
    name, wanted = "labels", rng.integers(0, 4, (8, each, 6))
    if kind is Regression:
        name, wanted = "targets", rng.standard_normal((8, each, 6, 4)).astype(np.float32)
    results, values = [], []
    for device in ("cpu", "cuda"):
        model = MLP(MLPConfig(5, 4, (7, 9), dropout=0.2), seed=1).to(device)
        task, optimizer = kind(model), optim.AdamW(model, lr=1e-2)
        take = GraphStep(task, optimizer, 0.5) if device == "cuda" else None
        found = []
        for xs, ts in zip(x, wanted, strict=True):
            step_batches = [{"x": a, name: b} for a, b in zip(xs, ts, strict=True)]
            if take is None:
                found.append(eager(task, optimizer, step_batches))
            else:
                take(step_batches)
        results.append(found if take is None else take.read())
        values.append(model.storage.values)
    np.testing.assert_allclose(results[1], results[0], rtol=2e-5)
    np.testing.assert_allclose(values[1].get(), values[0], rtol=1e-4, atol=1e-6)
    assert [graph.launches for graph in cupy.graphs] == {1: [6], 2: [6, 6]}[each]


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bf16", 3e-3)])
def test_generate_and_evaluate_give_the_same_on_both_devices(precision, near, cupy):
    text = np.random.default_rng(3).integers(0, 19, 200)
    found = []
    for device in ("cpu", "cuda"):
        task, _ = made(device, precision)
        written = generate(task.model, text[:5], max_new_tokens=20, overflow="window")
        loss = evaluate(task, consecutive_windows(text, 12, 4))["loss"]
        found.append((written.tolist(), loss))
    if precision == "float32":
        assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=near)


def test_the_example_in_the_documentation_runs(cupy, capsys):
    text = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "GraphStep" in c)
    ((batch,),) = batches(1)
    exec(compile(code, "docs/cuda.md", "exec"), {"config": CONFIG, **batch})
    ((loss, norm),) = ast.literal_eval(capsys.readouterr().out)
    assert loss == pytest.approx(np.log(19), abs=0.3)
    assert norm > 0


# --- Mistakes ------------------------------------------------------------------------------------


def id_too_large(a: Any) -> Any:
    a = a.copy()
    a[1, 3] = 19
    return a


def changed(ids: Any, targets: Any) -> list[dict[str, Any]]:
    return [{"ids": ids, "targets": targets}]


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            lambda a: changed(id_too_large(a), a),
            IndexError,
            r"GPT: ids\[1, 3\] = 19 is outside the vocabulary",
        ),
        (
            lambda a: changed(a, id_too_large(a)),
            IndexError,
            r"GPT: targets\[1, 3\] = 19 is outside the vocabulary",
        ),
        (
            lambda a: changed(a[:2], a[:2]),
            ValueError,
            r"GraphStep: ids must have shape \(3, 12\), got \(2, 12\): .* needs drop_last=True",
        ),
        (lambda a: changed(a, a[:2]), ValueError, r"GPT: targets must have the shape of ids, \(3,"),
        (lambda a: changed(a, a.astype(np.int32)), TypeError, "GPT: targets must be int64"),
        (
            lambda a: changed(a.tolist(), a),
            TypeError,
            "GraphStep: ids must be a numpy array, got list",
        ),
        (lambda a: [], ValueError, "GraphStep: the number of batches must be '?1'?, got 0"),
        (lambda a: 2 * changed(a, a), ValueError, "GraphStep: the number of batches must be '?1'?"),
        (
            lambda a: [{**changed(a, a)[0], "more": a}],
            ValueError,
            "GraphStep: a batch must have ids, targets, got ids, targets, more",
        ),
    ],
)
def test_a_wrong_batch_is_refused_and_nothing_is_lost(change, error, sentence, cupy):
    task, optimizer = made("cuda")
    step = GraphStep(task, optimizer)
    ((batch,),) = batches(1)
    step([batch])
    before = task.model.storage.values.get()
    with pytest.raises(error, match=f"^{sentence}"):
        step(change(batch["ids"]))
    assert task.model.storage.values.get().tobytes() == before.tobytes()
    step([batch])
    assert len(step.read()) == 2


@pytest.mark.deep
@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("made_before", [0, 1, 2])
def test_a_step_that_ends_early_leaves_nothing(steps, made_before, cupy):
    """After any number of steps and batches, the next one is the same as without it."""
    found = []
    for ends_early in (False, True):
        task, optimizer = made("cuda")
        step = GraphStep(task, optimizer, clip_norm=0.5)
        *former, last = batches(steps + 1, 3, ignored=True)
        for step_batches in former:
            step(step_batches)
        if ends_early:
            with pytest.raises(ZeroDivisionError):
                step(EndsEarly(last, made_before))
            assert not task.model.storage.grads.get().any()
        step(last)
        found.append((step.read(), task.model.storage.values.get()))
    assert found[0][0] == found[1][0]
    assert np.array_equal(found[0][1], found[1][1])


class EndsEarly(list):
    """Batches of which only the first `n` can be made."""

    def __init__(self, batches, n):
        super().__init__(batches)
        self.n = n

    def __iter__(self):
        yield from self[: self.n]
        raise ZeroDivisionError


def test_other_mistakes(cupy):
    with pytest.raises(ValueError, match=r"^GraphStep: the model must be on the GPU"):
        GraphStep(*made("cpu"))
    task, optimizer = made("cuda")
    step = GraphStep(task, optimizer, capacity=2)
    steps = batches(3)
    for step_batches in steps[:2]:
        step(step_batches)
    with pytest.raises(RuntimeError, match=r"^GraphStep: 2 steps were not read: the ring is full"):
        step(steps[2])
    assert len(step.read()) == 2
    assert step.read() == []
    with pytest.raises(
        ValueError, match=r"^GraphStep: the number of batches must be 1 or more, got"
    ):
        GraphStep(task, optimizer)([])
    task.model.to("cpu")
    with pytest.raises(RuntimeError, match=r"^GraphStep: the model was moved"):
        step(steps[2])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("each", [1, 2])
def test_a_gradient_that_is_not_finite_is_named_and_keeps_the_weights(each, precision, cupy):
    task, _ = made("cuda", precision, dropout=0.2)
    model = task.model
    optimizer = optim.AdamW(model)
    step = GraphStep(task, optimizer, clip_norm=0.5)
    steps = batches(9, each)
    for i, step_batches in enumerate(steps[:8]):
        if i == 3:
            step.read()
        if i == 5:
            kept = model.storage.values.get()
            model.storage.grads[7] = np.inf
        step(step_batches)
    with pytest.raises(
        Diverged,
        match=r"^GraphStep: step 6: the gradient's norm is (inf|nan), because the gradient of "
        r"decoder.tokens.weight is not finite \(NaN in 1 of 456 numbers\), though all weights "
        r"are$",
    ) as error:
        step.read()
    assert np.isfinite(error.value.before).all()
    assert len(error.value.before) == 2
    assert model.storage.values.get().tobytes() == kept.tobytes()
    assert optimizer.step_count == 5
    model.zero_grad()
    step(steps[8])
    assert np.isfinite(step.read()).all()
    assert optimizer.step_count == 6


# --- The plan ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 8)), max_size=40))
def test_arrays_that_exist_at_the_same_time_do_not_overlap(allocations):
    """allocations: (size, how many later allocations are made before it is freed) of each."""
    events: list[int] = []
    ends: list[tuple[int, int]] = []
    for n, (_, lives) in enumerate(allocations):
        events += [~m for end, m in ends if end == n]
        events.append(n)
        ends.append((n + 1 + lives, n))
    sizes = [size for size, _ in allocations]
    offsets, total = lay_out(sizes, events)
    alive: set[int] = set()
    for event in events:
        if event < 0:
            alive.remove(~event)
            continue
        begin, end = offsets[event], offsets[event] + sizes[event]
        assert begin % 512 == 0
        assert end <= total
        for other in alive:
            first, last = offsets[other], offsets[other] + sizes[other]
            assert end <= first or last <= begin or first == last or begin == end
        alive.add(event)
