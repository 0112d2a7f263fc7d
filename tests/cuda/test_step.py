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

from byhand import GPT, GPTConfig, optim
from byhand.generation import generate
from byhand.training.evaluate import mean_loss
from byhand.training.finite import Diverged
from byhand.training.graph import StepGraph
from byhand.training.plan import lay_out
from tests.cuda.cupy_double import Unsafe

CONFIG = GPTConfig(vocabulary_size=19, context_size=12, embedding_dim=24, num_heads=3, num_layers=2)


def made(device: str, **changes: Any) -> tuple[GPT, optim.AdamW]:
    model = GPT(GPTConfig(**{**CONFIG.to_dict(), **changes}), seed=4)
    model.to(device)
    return model, optim.AdamW(model, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1)


def batches(steps: int, each: int = 1) -> list[list[tuple[Any, Any]]]:
    rng = np.random.default_rng(8)
    drawn = rng.integers(0, CONFIG.vocabulary_size, (steps, each, 2, 3, 12))
    return [[(ids, targets) for ids, targets in step] for step in drawn]


def eager(model: GPT, optimizer: optim.AdamW, batches: Any) -> tuple[float, float]:
    model.zero_grad()
    loss = 0.0
    for ids, targets in batches:
        loss += float(model.loss(ids, targets, 1 / len(batches))) / len(batches)
        model.backward()
    return loss, float(optimizer.step(clip_norm=0.5))


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"dropout": 0.2}, {"tie_weights": False, "use_bias": False}]
)
def test_ten_steps_are_those_of_the_cpu(each, changes, cupy):
    host, expected = made("cpu", **changes), []
    model, optimizer = made("cuda", **changes)
    step = StepGraph(model, optimizer, clip_norm=0.5)
    for i, step_batches in enumerate(batches(10, each)):
        host[1].lr = lr = 3e-3 / (1 + i)
        expected.append(eager(*host, step_batches))
        step(step_batches, lr)
    np.testing.assert_allclose(step.read(), expected, rtol=2e-5)
    np.testing.assert_allclose(model.arena.values.get(), host[0].arena.values, rtol=1e-4, atol=1e-5)
    assert optimizer.step_count == host[1].step_count == 10
    assert not model.arena.grads.get().any()
    # Captured in the third step.
    assert [graph.launches for graph in cupy.graphs] == {1: [8], 3: [16, 8]}[each]
    assert model.generator.state() == host[0].generator.state()


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_step_neither_allocates_nor_waits(dropout, cupy):
    step = StepGraph(*made("cuda", dropout=dropout), clip_norm=0.5)
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
def test_the_double_notices_a_step_that_no_graph_can_hold(bug, cupy, monkeypatch):
    model, optimizer = made("cuda")
    step = StepGraph(model, optimizer)
    norm = model.norm.forward

    def forward(x: Any) -> Any:
        y = norm(x)
        bug(y)
        return y

    monkeypatch.setattr(model.norm, "forward", forward)
    first, second, third = batches(3)
    step(first)
    step(second)
    with pytest.raises(Unsafe):
        step(third)
    assert cupy.machine.captured is None


def test_a_step_that_is_not_always_the_same_is_noticed(cupy, monkeypatch):
    model, optimizer = made("cuda")
    step = StepGraph(model, optimizer)
    steps = batches(3)
    for step_batches in steps[:2]:
        step(step_batches)
    norm = model.norm.forward
    monkeypatch.setattr(model.norm, "forward", lambda x: norm(norm(x)))
    with pytest.raises(RuntimeError, match=r"^allocation \d+ of the step is of \d+ bytes, and was"):
        step(steps[2])


def test_recomputed_blocks_need_less_memory_for_the_same_bits(cupy):
    planned, values = [], []
    for recompute in (False, True):
        model, optimizer = made("cuda", num_layers=6, dropout=0.2)
        model.recompute = recompute
        step = StepGraph(model, optimizer)
        for step_batches in batches(5):
            step(step_batches)
        planned.append(step.planned_bytes)
        values.append(model.arena.values.get().tobytes())
    assert values[0] == values[1]
    assert planned[1] < planned[0] / 2


def test_the_plan_is_the_peak_and_not_the_sum(cupy):
    model, optimizer = made("cuda", num_layers=6)
    step = StepGraph(model, optimizer)
    assert step.planned_bytes == 0
    for step_batches in batches(2):
        step(step_batches)
    plan = step._updating.plan
    assert step.planned_bytes == plan.nbytes
    assert max(plan._sizes) < plan.nbytes < 0.5 * sum(plan._sizes)


def test_two_graphs_share_the_memory_of_the_larger(cupy):
    model, optimizer = made("cuda", num_layers=6)
    step = StepGraph(model, optimizer, clip_norm=0.5)
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
    host = made("cpu")
    model, optimizer = made("cuda")
    model.precision = "bf16"
    step = StepGraph(model, optimizer, clip_norm=0.5)
    repeated = batches(5) * 8
    for step_batches in repeated:
        step(step_batches)
    losses = np.array(step.read())[:, 0]
    expected = np.array([eager(*host, step_batches)[0] for step_batches in repeated])
    np.testing.assert_allclose(losses, expected, atol=0.01)
    assert expected[-1] < expected[0] - 0.3
    assert not np.array_equal(losses, expected.astype(np.float32))
    arena = model.arena
    assert arena.values.dtype == arena.grads.dtype == np.float32
    assert model.tokens.weight.operand.dtype == "bfloat16"
    kept = arena.values.get().astype(arena.operands.dtype)
    assert arena.operands.get().tobytes() == kept.tobytes()
    assert model.new_cache().layers[0].keys.dtype == "bfloat16"


def test_weights_that_are_loaded_reach_their_bfloat16_copies(cupy):
    model, optimizer = made("cuda")
    model.precision = "bf16"
    model.load_state_dict({name: p.get() + 1 for name, p in model.state_dict().items()})
    arena = model.arena
    kept = arena.values.get().astype(arena.operands.dtype)
    assert arena.operands.get().tobytes() == kept.tobytes()
    with pytest.raises(ValueError, match=r"^AdamW.step: this model has a copy of its own"):
        optimizer.step(copy=model.arena.operands)
    model.precision = "float32"
    assert model.arena.operands is model.arena.values
    model.precision = "bf16"
    model.to("cpu")
    assert model.tokens.weight.operand is model.tokens.weight.value


@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bf16", 3e-3)])
def test_writing_and_measuring_are_the_same_on_both(precision, near, cupy):
    text = np.random.default_rng(3).integers(0, 19, 200)
    found = []
    for device in ("cpu", "cuda"):
        model, _ = made(device)
        model.precision = precision
        written = generate(model, text[:5], 20, temperature=0)
        found.append((written.tolist(), mean_loss(model, text, 12, 4)))
    if precision == "float32":
        assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=near)


def test_the_example_in_the_documentation_runs(cupy, capsys):
    text = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "StepGraph" in c)
    (((ids, targets),),) = batches(1)
    exec(compile(code, "docs/cuda.md", "exec"), {"config": CONFIG, "ids": ids, "targets": targets})
    ((loss, norm),) = ast.literal_eval(capsys.readouterr().out)
    assert loss == pytest.approx(np.log(19), abs=0.3)
    assert norm > 0


# --- Mistakes ------------------------------------------------------------------------------------


def id_too_large(a: Any) -> Any:
    a = a.copy()
    a[1, 3] = 19
    return a


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda a: [(id_too_large(a), a)], IndexError, r"ids\[1, 3\] = 19 is outside the voc"),
        (lambda a: [(a, id_too_large(a))], IndexError, r"targets\[1, 3\] = 19 is outside the voc"),
        (lambda a: [(a[:2], a[:2])], ValueError, r"ids must have shape \(3, 12\), got \(2, 12\)"),
        (lambda a: [(a, a[:2])], ValueError, r"targets must have shape \(3, 12\)"),
        (lambda a: [(a, a.astype(np.int32))], TypeError, "targets must have dtype int64"),
        (lambda a: [(a.tolist(), a)], TypeError, "ids must be a numpy array, got list"),
        (lambda a: [], ValueError, "the number of batches must be 1, got 0"),
        (lambda a: [(a, a), (a, a)], ValueError, "the number of batches must be 1, got 2"),
    ],
)
def test_a_wrong_batch_is_refused_and_nothing_is_lost(change, error, sentence, cupy):
    model, optimizer = made("cuda")
    step = StepGraph(model, optimizer)
    (((ids, targets),),) = batches(1)
    step([(ids, targets)])
    before = model.arena.values.get()
    with pytest.raises(error, match=f"^StepGraph: {sentence}"):
        step(change(ids))
    assert model.arena.values.get().tobytes() == before.tobytes()
    step([(ids, targets)])
    assert len(step.read()) == 2


def test_other_mistakes(cupy):
    with pytest.raises(ValueError, match=r"^StepGraph: the model must be on the GPU"):
        StepGraph(*made("cpu"))
    model, optimizer = made("cuda")
    step = StepGraph(model, optimizer, ring=2)
    steps = batches(3)
    for step_batches in steps[:2]:
        step(step_batches)
    with pytest.raises(RuntimeError, match=r"^StepGraph: 2 steps were not read: the ring is full"):
        step(steps[2])
    assert len(step.read()) == 2
    assert step.read() == []
    with pytest.raises(
        ValueError, match=r"^StepGraph: the number of batches must be 1 or more, got"
    ):
        StepGraph(model, optimizer)([])
    model.to("cpu")
    with pytest.raises(RuntimeError, match=r"^StepGraph: the model was moved"):
        step(steps[2])


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("each", [1, 2])
def test_a_gradient_that_is_not_finite_is_named_and_keeps_the_weights(each, precision, cupy):
    model, optimizer = made("cuda", dropout=0.2)
    model.precision = precision
    optimizer = optim.AdamW(model)
    step = StepGraph(model, optimizer, clip_norm=0.5)
    steps = batches(9, each)
    for i, step_batches in enumerate(steps[:8]):
        if i == 3:
            step.read()
        if i == 5:
            kept = model.arena.values.get()
            model.arena.grads[7] = np.inf
        step(step_batches)
    with pytest.raises(
        Diverged,
        match=r"^StepGraph: step 6: the gradient's norm is (inf|nan), because the gradient of "
        r"tokens.weight is not finite \(NaN in 1 of 456 numbers\), though all weights are$",
    ) as error:
        step.read()
    assert np.isfinite(error.value.before).all()
    assert len(error.value.before) == 2
    assert model.arena.values.get().tobytes() == kept.tobytes()
    assert optimizer.step_count == 5
    model.zero_grad()
    step(steps[8])
    assert np.isfinite(step.read()).all()
    assert optimizer.step_count == 6


# --- The plan ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 8)), max_size=40))
def test_what_lives_at_the_same_time_does_not_overlap(allocations):
    """(size, how many later allocations it outlives) of each."""
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
