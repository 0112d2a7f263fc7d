"""`module.summary()`: shapes, parameters, floating-point operations and memory against hand counts
and against what is really allocated.
"""

from __future__ import annotations

import json
import threading
import tracemalloc
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, _host, nn, optim
from byhand.cli import bench
from byhand.nn import init
from byhand.nn.summary import in_units, weight_bytes

B, T, C, H, L, V = 3, 10, 24, 4, 2, 17
GPT_CONFIG = GPTConfig(V, T, C, H, L)


def rows_of(summary):
    return {layer.path: layer for layer in summary.layers}


def test_a_gpt_by_hand():
    """Of a block: queries, keys, values and projection 4 C C, feed-forward 8 C C for each token,
    and two products of T x T x C for attention; of the head V C. Twice that, and three times.
    """
    model = GPT(GPT_CONFIG)
    found = model.summary(batch=B)
    ahead = 2 * B * (L * (12 * T * C * C + 2 * T * T * C) + T * V * C)
    assert (found.flops, found.step_flops) == (ahead, 3 * ahead)
    assert found.step_flops == B * T * bench.flops_per_token(GPT_CONFIG)
    block = 4 * C + 12 * C * C + 9 * C
    assert found.parameters == found.trained == V * C + T * C + L * block + 2 * C
    rows = rows_of(found)
    assert rows[""].output_shape == (B, T, V)
    assert rows["decoder.blocks.1.attention.qkv"].output_shape == (B, T, 3 * C)
    assert rows["decoder.blocks.1"].parameters == block
    assert rows["decoder.blocks.0.ffn"].flops == 2 * B * T * 8 * C * C
    assert rows["decoder.blocks.0.ffn.up"].output_shape is None, "one kernel with the rest"
    assert rows["head"].parameters == 0, "it is the token embedding's matrix"
    assert rows["head"].shared == ("decoder.tokens.weight",)
    assert rows["head"].flops == 2 * B * T * V * C
    assert found.input_shapes == ((B, T),)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_activations_of_a_gpt_are_those_that_training_allocates(dropout):
    config = GPTConfig(7, 64, 128, 4, 3, dropout)
    model = GPT(config)
    ids = np.zeros((8, 64), np.int64)
    model.loss(ids, ids)
    model.backward()
    before = _host.pool_stats()["in_use"]
    loss = model.loss(ids, ids)
    allocated = _host.pool_stats()["in_use"] - before
    model.backward()
    kept = model.summary(batch=8).activation_bytes
    assert 0.99 * kept <= allocated <= 1.01 * kept, "the loss keeps as much as the head"
    assert 0.9 * kept <= 4 * config.saved_activations(8 * 64) <= kept
    del loss


def test_recomputed_blocks_keep_their_input_and_are_counted_twice():
    plain, sparing = GPT(GPT_CONFIG), GPT(GPT_CONFIG, recompute=True)
    of_plain, of_sparing = plain.summary(batch=B), sparing.summary(batch=B)
    blocks = L * rows_of(of_plain)["decoder.blocks.0"].flops
    assert of_sparing.flops == of_plain.flops
    assert of_sparing.step_flops == of_plain.step_flops + blocks
    assert rows_of(of_sparing)["decoder.blocks.0"].activation_bytes == 0
    # The input of each block and of the last norm, and what the rest keeps as before.
    inputs = 4 * L * B * T * C
    outside = of_plain.activation_bytes - sum(
        rows_of(of_plain)[f"decoder.blocks.{i}"].activation_bytes for i in range(L)
    )
    assert of_sparing.activation_bytes == inputs + outside


def test_an_mlp_by_hand():
    sizes = (10, 46, 46, 3)
    model = MLP(MLPConfig(10, 3, (46, 46)))
    found = model.summary(batch=64)
    products = sum(a * b for a, b in pairwise(sizes))
    assert (found.flops, found.step_flops) == (2 * 64 * products, 6 * 64 * products)
    assert found.parameters == products + sum(sizes[1:])
    # A copy of the input; of each hidden layer what the GELU and what the next layer takes.
    assert found.activation_bytes == 4 * 64 * (10 + 4 * 46)
    assert [layer.kind for layer in found.layers[:4]] == ["MLP", "Sequential", "Linear", "GELU"]


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (nn.ReLU(), 1),  # y, which the next layer keeps too
        (nn.SiLU(), 2),  # x, and what the next layer takes
        (nn.LayerNorm(300), 2),
        (nn.Dropout(0.5), 1),
        (nn.Flatten(), 0),  # y is a view of x, which only the next layer keeps
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_a_sequence_keeps_is_what_is_allocated(layer, kept):
    """Each array once, though several layers keep it; the caller's input not at all."""
    model = nn.Sequential(nn.Linear(50, 300), layer, nn.Linear(300, 2)).build()
    x = np.ones((40, 50), np.float32)
    expected = 4 * 40 * 300 * max(kept, 1)
    if isinstance(layer, nn.LayerNorm):
        expected += 2 * 4 * 40  # mean and deviation of each row
    found = model.summary(x)
    assert found.activation_bytes == expected
    model.backward(model(x))
    tracemalloc.start()
    before = _host.pool_stats()["in_use"], tracemalloc.get_traced_memory()[0]
    y = model(x)
    del y
    pool = _host.pool_stats()["in_use"] - before[0]
    small = tracemalloc.get_traced_memory()[0] - before[1]
    tracemalloc.stop()
    assert expected <= pool + small <= expected + 4096, "and a few Python objects"


def test_a_feed_forward_layer_counts_the_same_as_one_kernel_and_as_several():
    fused = nn.FeedForward(6, 20, "gelu").build()
    apart = nn.FeedForward(6, 20, "relu").build()
    products = 2 * 2 * 5 * 6 * 20
    for layer in (fused, apart):
        found = layer.summary((5, 6))
        assert (found.flops, found.step_flops) == (products, 3 * products)
    assert rows_of(apart.summary((5, 6)))["up"].flops == products // 2
    apart.freeze("up.*")
    fused.freeze("up.*")
    for layer in (fused, apart):
        found = layer.summary((5, 6))
        assert found.step_flops == 3 * products - products // 2, "no gradient of that weight"
        assert found.trained == 20 * 6 + 6
        assert "partly frozen" in str(found)


def test_a_shared_layer_is_one_row_with_the_operations_of_all_its_calls():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.Tanh(), layer).build()
    model.itself = model
    rows = rows_of(model.summary(batch=3))
    assert [*rows] == ["", "0", "1"]
    assert rows["0"].flops == 2 * 2 * 3 * 16
    assert rows[""].parameters == 20
    assert rows[""].shared == ("0",)


def test_cross_attention_counts_queries_and_keys_apart():
    layer = nn.MultiHeadAttention(8, 2, num_kv_heads=1).build()
    found = layer.summary((2, 5, 8), (2, 7, 8))
    ahead = 2 * 2 * (5 * 8 * 8 + 7 * 8 * 8 + 2 * 5 * 7 * 8 + 5 * 8 * 8)
    assert (found.flops, found.step_flops) == (ahead, 3 * ahead)
    assert found.input_shapes == ((2, 5, 8), (2, 7, 8))


def test_the_memory_of_the_weights_is_what_a_model_and_its_optimizer_allocate():
    model = MLP(MLPConfig(10, 3, (20,)))
    model.freeze("layers.0.*")
    found = model.summary()
    storage, optimizer = model.storage, optim.AdamW(model, lr=1e-3)
    assert found.parameter_bytes == storage.values.nbytes
    assert found.gradient_bytes == storage.grads.nbytes
    assert found.moment_bytes == sum(slot.nbytes for slot in optimizer.slots.values())
    assert model.summary(moments=0).moment_bytes == 0
    doubled = model.to(dtype="float64").summary()
    assert doubled.parameter_bytes == 2 * found.parameter_bytes
    assert doubled.activation_bytes == 2 * found.activation_bytes
    assert found.step_bytes == (
        found.parameter_bytes + found.gradient_bytes + found.moment_bytes + found.activation_bytes
    )
    assert weight_bytes(100, 60) == (400, 240, 480)
    tables = nn.Sequential(nn.Linear(2, 3)).build()
    tables.table = nn.Buffer((7,), init.ones)
    tables.build()
    assert tables.summary().parameter_bytes == 4 * (9 + 7)


def test_frozen_parameters_are_shown_as_such():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).build()
    model.freeze(["0.*", "1.bias"])
    lines = str(model.summary(batch=4)).splitlines()
    assert lines[1].endswith("partly frozen")
    assert lines[2].split()[-1] == "frozen"
    assert lines[2].split()[-2] != "partly"
    assert "14 parameters, 4 of them trained" in lines


def test_a_summary_changes_nothing():
    model = GPT(GPTConfig(V, T, C, H, L, dropout=0.3)).inference()
    values, count = model.storage.values.copy(), model.generator.count
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    model.summary(batch=2)
    with pytest.raises(ValueError, match="do not fit the context"):
        model.summary((2, T + 1))
    assert np.array_equal(model.storage.values, values)
    assert not model.storage.grads.any()
    assert model.generator.count == count
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
    assert not model.waiting()
    assert not model._saving
    # Also between the forward and the backward pass of a step.
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).build(seed=1)
    x = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32)
    expected = layers.backward(layers(x))
    y = layers(x)
    layers.summary(batch=7)
    assert np.array_equal(layers.backward(y), expected)


@pytest.mark.parametrize("mode", ["train", "eval", "inference"])
def test_it_is_of_a_training_step_in_every_mode(mode):
    """In which dropout is active, so a further array is kept."""
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 2)).build()
    expected = 4 * 5 * (4 + 4)  # what the GELU and what the last layer takes
    getattr(model, mode)()
    found = model.summary(batch=5)
    assert (found.activation_bytes, found.step_flops) == (expected, 3 * found.flops)
    assert rows_of(found)["3"].activation_bytes == 4 * 5 * 4
    of_gpt = GPT(GPTConfig(V, T, C, H, L, dropout=0.3))
    assert getattr(of_gpt, mode)().summary() == of_gpt.train().summary()


class Counter(nn.Module):
    """Counts its calls in training, and calls its part in another thread too."""

    def __init__(self):
        self.calls = nn.Buffer((1,), init.zeros)
        self.part = nn.Linear(3, 2)

    def forward(self, x):
        self.calls.value += self.training
        other = threading.Thread(target=self.elsewhere)
        other.start()
        other.join()
        return self.part(x)

    def elsewhere(self):
        with self.part.in_inference():
            self.part(np.ones((50, 3), np.float32))


def test_buffers_stay_and_calls_of_other_threads_do_not_count():
    model = Counter().build()
    found = model.summary((4, 3))
    assert model.calls.value == 0
    assert found.flops == 2 * 4 * 6
    model(np.ones((4, 3), np.float32))
    assert model.calls.value == 1


def test_a_layer_of_ones_own_counts_by_its_own_formula():
    class Bilinear(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter((3, 4), init.ones)

        def forward(self, x, z, scale=1.0):
            self.push((x, z))
            return ((x @ self.weight.value) * z).sum(-1)

        def flops(self, x, z, scale):
            assert (z, scale) == ((5, 4), None)
            return 2 * x[0] * 12, 0

    found = Bilinear().build().summary((5, 3), np.ones((5, 4), np.float32))
    assert (found.flops, found.layers[0].output_shape) == (120, (5,))
    assert found.activation_bytes == 0, "it keeps its inputs only"


def test_shapes_of_ids_and_numbers():
    ids = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).build()
    assert ids.summary((4, 2)).layers[0].output_shape == (4, 2)
    with pytest.raises(ValueError, match=r"^Sequential.summary: it does not know the shape of an"):
        ids.summary(batch=4)
    assert nn.Linear(3, 2).build().summary(batch=4).layers[0].output_shape == (4, 2)
    only = ids.summary()
    assert only.parameters == 5 * 3 + 6 * 2 + 2
    assert (only.flops, only.activation_bytes, only.input_shapes) == (0, 0, ())
    assert "FLOPs" not in str(only)
    assert nn.GELU().summary((2, 3)).layers[0].output_shape == (2, 3)


def test_what_is_wrong_is_said_in_one_sentence():
    with pytest.raises(RuntimeError, match=r"^Linear is not built: call build\(\) on the model"):
        nn.Linear(3, 2).summary(batch=2)
    layer = nn.Linear(3, 2).build()
    for arguments, options, sentence in [
        (((2, 4),), {}, r"^Linear: x must have shape \(\.\.\., 3\), got \(2, 4\)$"),
        ((8,), {}, r"^Linear.summary: input 0 must be an array or a shape, got 8$"),
        (((2, 3),), {"batch": 2}, r"^Linear.summary: pass the inputs or batch, not both$"),
        ((), {"batch": -1}, r"^Linear.summary: batch must be at least 0, got -1$"),
        ((), {"batch": 2.0}, r"^Linear.summary: batch must be a whole number, got 2.0$"),
        ((), {"moments": -1}, r"^Linear.summary: moments must be at least 0, got -1$"),
    ]:
        with pytest.raises((TypeError, ValueError), match=sentence):
            layer.summary(*arguments, **options)


def test_the_table():
    model = GPT(GPT_CONFIG)
    lines = str(model.summary(batch=B)).splitlines()
    heads = "layer output shape parameters FLOPs step FLOPs activations"
    assert " ".join(lines[0].split()) == heads
    assert sum("blocks.0 to blocks.1, each: Block" in line for line in lines) == 1
    assert lines[-4] == f"{model.num_parameters():,} parameters"
    assert lines[-1].startswith("memory of a training step: ")
    assert max(map(len, lines)) < 130
    assert repr(model.summary(batch=B)) == "\n".join(lines)
    assert [in_units(n) for n in (0, 999, 1234, 45_600_000, 789 * 10**9)] == [
        "0",
        "999",
        "1.23 k",
        "45.6 M",
        "789 G",
    ]


class Text(HTMLParser):
    """The text of a page, and whether every tag is closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def test_a_notebook_shows_a_module_and_its_summary():
    model = GPT(GPT_CONFIG)
    lines = Text(model._repr_html_()).text.splitlines()
    assert lines == [line.strip() for line in repr(model).splitlines()]
    assert Text(nn.GELU()._repr_html_()).text == "GELU(approximate='none')\n"
    found = model.summary(batch=B)
    text = Text(found._repr_html_()).text
    for row in ("decoder: Decoder", "(3, 10, 24)", *str(found).splitlines()[-4:]):
        assert row in text
    odd = nn.Sequential(nn.GELU())
    odd.title = "<b>"
    assert "<b>" not in odd._repr_html_()
    assert json.dumps(found.flops), "a plain number for programs"
