"""`module.summary()` of a model on a GPU."""

from __future__ import annotations

import pytest

from byhand import GPT, GPTConfig


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_memory_on_a_gpu(precision, cupy):
    """The same activations as on the CPU, where the ids are copied too; in bf16 half of them, but
    for statistics, and a copy of the parameters.
    """
    model = GPT(GPTConfig(17, 8, 16, 2, 2), precision=precision)
    on_cpu = model.summary(batch=2)
    model.to("cuda")
    found = model.summary(batch=2)
    ids, rows = 8 * 2 * 8, 2 * 8
    statistics = 4 * rows * (5 * 2 + 2 * 2)  # of five norms, and of the attention of two heads
    floats = on_cpu.activation_bytes - 2 * ids - statistics
    half = 2 if precision == "bf16" else 1
    assert found.activation_bytes == floats // half + statistics + ids
    assert found.parameter_bytes == (6 if precision == "bf16" else 4) * found.parameters
    assert (found.gradient_bytes, found.moment_bytes) == (
        on_cpu.gradient_bytes,
        on_cpu.moment_bytes,
    )
    assert (found.flops, found.step_flops) == (on_cpu.flops, on_cpu.step_flops)
    assert [layer.path for layer in found.layers] == [layer.path for layer in on_cpu.layers]
