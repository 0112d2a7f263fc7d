"""GPT compared with finite differences, PyTorch and its documentation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from byhand import GPT, GPTConfig, backend, gradcheck, nn, optim
from byhand.nn.gradcheck import GradcheckError

# Every dimension differs, so that swapped axes make a test fail.
SIZES = dict(vocabulary_size=17, context_size=9, embedding_dim=12, num_heads=3, num_layers=2)
B, T = 4, 7
VARIANTS = [
    dict(tie_weights=tie, use_bias=bias) for tie, bias in itertools.product([True, False], repeat=2)
]
VARIANTS.append(dict(norm="post"))
variants = pytest.mark.parametrize("options", VARIANTS, ids=str)
# Beside the options of PyTorch's twin, those that it has not.
KINDS = [dict(positions=kind) for kind in ("sinusoidal", "rotary", "alibi")]
KINDS += [dict(attention="linear"), dict(attention="linear", positions="sinusoidal", norm="post")]
all_kinds = pytest.mark.parametrize("options", VARIANTS + KINDS, ids=str)


def make(seed: int = 0, dtype: str = "float64", **options) -> GPT:
    """A small GPT whose parameters are all random, norms and biases too."""
    model = GPT(GPTConfig(**SIZES, **options), seed=seed)
    rng = np.random.default_rng(seed + 100)
    for p in model.parameters():
        p.value += rng.standard_normal(p.shape, dtype=np.float32) * np.float32(0.1)
    return model.to(dtype=dtype)


def batch(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, SIZES["vocabulary_size"], (2, B, T))
    return ids[0], ids[1]


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


@all_kinds
def test_gradients_match_finite_differences(options):
    gradcheck(make(**options), *batch())


def test_gradients_with_dropout_match_finite_differences():
    gradcheck(make(dropout=0.3), *batch())


def test_gradcheck_rejects_a_wrong_backward_pass(monkeypatch):
    right = nn.LayerNorm.backward
    monkeypatch.setattr(nn.LayerNorm, "backward", lambda self, dy, add=None: right(self, dy))
    with pytest.raises(GradcheckError, match="is off by"):
        gradcheck(make(), *batch())


def torch_twin(model: GPT):
    pytest.importorskip("torch")
    from byhand.cli.bench_torch import twin_of

    return twin_of(model)


@variants
def test_float64_equals_pytorch(options):
    """Logits, loss, every gradient and ten AdamW steps, to 1e-9."""
    model = make(**options)
    twin = torch_twin(model)
    import torch

    from byhand.cli.bench_torch import adamw

    ids, targets = batch()
    with model.no_save():
        assert relative_error(model(ids), twin(torch.from_numpy(ids)).detach().numpy()) < 1e-9

    settings = dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    ours, theirs = optim.AdamW(model, **settings), adamw(twin, **settings)
    for step in range(10):
        ids, targets = batch(step)
        model.zero_grad()
        theirs.zero_grad()
        loss = model.loss(ids, targets)
        model.backward()
        expected = twin.loss(torch.from_numpy(ids), torch.from_numpy(targets))
        expected.backward()
        assert abs(float(loss) - expected.item()) < 1e-9
        grads = dict(twin.named_parameters())
        for name, p in model.named_parameters():
            assert relative_error(p.grad, grads[name].grad.numpy()) < 1e-9, (step, name)
        norm = ours.step(clip_norm=0.5)
        expected_norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        assert abs(float(norm) - expected_norm.item()) < 1e-9 * expected_norm.item()
        theirs.step()
        for name, p in model.named_parameters():
            assert relative_error(p.value, grads[name].detach().numpy()) < 1e-9, (step, name)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_equals_pytorchs_encoder_layer(norm):
    """In float64, y and every gradient, with a causal mask."""
    torch = pytest.importorskip("torch")
    model = make(norm=norm)
    block, C = model.decoder.blocks[1], SIZES["embedding_dim"]
    theirs = torch.nn.TransformerEncoderLayer(
        C,
        SIZES["num_heads"],
        4 * C,
        dropout=0.0,
        activation=torch.nn.GELU("tanh"),
        batch_first=True,
        norm_first=norm == "pre",
        dtype=torch.float64,
    )
    pairs = {
        "attention.qkv.weight": theirs.self_attn.in_proj_weight,
        "attention.qkv.bias": theirs.self_attn.in_proj_bias,
        "attention.project.weight": theirs.self_attn.out_proj.weight,
        "attention.project.bias": theirs.self_attn.out_proj.bias,
        "ffn.up.weight": theirs.linear1.weight,
        "ffn.up.bias": theirs.linear1.bias,
        "ffn.down.weight": theirs.linear2.weight,
        "ffn.down.bias": theirs.linear2.bias,
        "norm1.weight": theirs.norm1.weight,
        "norm1.bias": theirs.norm1.bias,
        "norm2.weight": theirs.norm2.weight,
        "norm2.bias": theirs.norm2.bias,
    }
    ours = dict(block.named_parameters())
    assert ours.keys() == pairs.keys()
    with torch.no_grad():
        for name, p in pairs.items():
            p.copy_(torch.from_numpy(ours[name].value))
    x, dy = np.random.default_rng(2).standard_normal((2, B, T, C))
    leaf = torch.from_numpy(x).requires_grad_()
    mask = torch.nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    wanted = theirs(leaf, src_mask=mask)
    wanted.backward(torch.from_numpy(dy))
    assert relative_error(block(x), wanted.detach().numpy()) < 1e-9
    assert relative_error(block.backward(dy), leaf.grad.numpy()) < 1e-9
    for name, p in pairs.items():
        assert relative_error(ours[name].grad, p.grad.numpy()) < 1e-9, name


@variants
@pytest.mark.parametrize("name", backend.cpu_modules())
def test_float32_kernels_are_as_exact_as_pytorch(name, options):
    """The error against float64 is at most a few times that of PyTorch's float32 on the same
    weights: the tolerance is measured, not chosen."""
    truth, fast = make(**options), make(dtype="float32", **options)
    twin = torch_twin(fast)
    import torch

    ids, targets = batch()
    truth.zero_grad()
    true_loss = truth.loss(ids, targets)
    truth.backward()
    expected = twin.loss(torch.from_numpy(ids), torch.from_numpy(targets))
    expected.backward()
    with backend.use_cpu(name):
        fast.zero_grad()
        loss = fast.loss(ids, targets)
        fast.backward()
    eps = np.finfo(np.float32).eps
    torch_error = abs(expected.item() - float(true_loss))
    assert abs(float(loss) - float(true_loss)) <= 4 * torch_error + 8 * eps * float(true_loss)
    torch_grads = dict(twin.named_parameters())
    true_grads = dict(truth.named_parameters())
    for parameter, p in fast.named_parameters():
        exact = true_grads[parameter].grad
        allowed = 4 * relative_error(torch_grads[parameter].grad.numpy(), exact) + 8 * eps
        assert relative_error(p.grad, exact) <= allowed, parameter


@variants
@pytest.mark.parametrize("name", backend.cpu_modules())
def test_bf16_is_as_exact_as_pytorchs_autocast(name, options):
    """Also that bf16 is used: the gradients differ by about 2^-9, not by float32's rounding."""
    truth, fast = make(**options), make(dtype="float32", **options)
    twin = torch_twin(fast)
    import torch

    ids, targets = batch()
    true_loss = truth.loss(ids, targets)
    truth.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = twin.loss(torch.from_numpy(ids), torch.from_numpy(targets))
    expected.backward()
    fast.precision = "bf16"
    with backend.use_cpu(name):
        loss = fast.loss(ids, targets)
        fast.backward()
    torch_error = abs(expected.item() - float(true_loss))
    assert abs(float(loss) - float(true_loss)) <= 2 * torch_error + 1e-3 * float(true_loss)
    torch_grads = dict(twin.named_parameters())
    true_grads = dict(truth.named_parameters())
    errors = []
    for parameter, p in fast.named_parameters():
        exact = true_grads[parameter].grad
        errors.append(relative_error(p.grad, exact))
        allowed = 2 * relative_error(torch_grads[parameter].grad.numpy(), exact)
        assert errors[-1] <= allowed, parameter
    assert max(errors) > 1e-4


def test_precision_is_set_in_every_layer_and_set_back():
    model = make(dtype="float32")
    assert model.precision == "float32"
    with model.no_save():
        ids = batch()[0]
        plain = model(ids)
        model.precision = "bf16"
        assert {m.precision for _, m in model.named_modules()} == {"bf16"}
        rounded = model(ids)
        model.precision = "float32"
        np.testing.assert_array_equal(model(ids), plain)
    assert 1e-4 < relative_error(rounded, plain) < 0.05
    assert GPT(model.config, precision="bf16").precision == "bf16"
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, got 'fp8'"):
        model.precision = "fp8"
    assert model.precision == "float32"


def test_gradcheck_uses_full_precision():
    model = make(dtype="float32")
    model.precision = "bf16"
    gradcheck(model, *batch())
    assert model.precision == "bf16"


def test_untied_head_and_embedding_are_two_parameters():
    tied, untied = make(tie_weights=True), make(tie_weights=False)
    names = [name for name, _ in tied.named_parameters()]
    assert "head.weight" not in names
    assert untied.num_parameters() - tied.num_parameters() == 17 * 12


def test_parameter_count_follows_the_formula():
    V, S, C, L = 17, 9, 12, 2
    block = (3 * C * C + 3 * C) + (C * C + C) + (8 * C * C + 5 * C) + 4 * C
    assert make().num_parameters() == V * C + S * C + L * block + 2 * C


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_later_token_never_changes_an_earlier_logit(dtype):
    model = make(dtype=dtype).inference()
    ids, _ = batch()
    before = model(ids).copy()
    ids[:, 5] = (ids[:, 5] + 1) % 17
    after = model(ids)
    assert np.array_equal(before[:, :5], after[:, :5])
    assert not np.array_equal(before[:, 5:], after[:, 5:])


def test_rows_of_a_batch_do_not_influence_each_other():
    model = make(dtype="float32").inference()
    ids, _ = batch()
    before = model(ids).copy()
    ids[2] = (ids[2] + 1) % 17
    after = model(ids)
    keep = [0, 1, 3]
    assert np.array_equal(before[keep], after[keep])


@pytest.mark.parametrize("options", [{}, dict(norm="post"), *KINDS], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoding_with_a_cache_gives_the_same_logits(dtype, options):
    model = make(dtype=dtype, **options).inference()
    ids, _ = batch()
    whole = model(ids)
    cache = model.new_cache(B)
    first = np.ascontiguousarray(ids[:, :3])
    parts = [model(first, cache=cache)]
    parts += [model(np.ascontiguousarray(ids[:, t : t + 1]), cache=cache) for t in range(3, T)]
    assert cache.length == T
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert relative_error(np.concatenate(parts, axis=1), whole) < tolerance
    cache.reset()
    assert np.array_equal(model(first, cache=cache), parts[0])


@pytest.mark.parametrize("options", [{}, *KINDS], ids=str)
def test_a_later_token_moves_no_bit(options):
    model = make(dtype="float32", **options).inference()
    ids, _ = batch()
    before = model(ids)
    ids[:, 4:] = (ids[:, 4:] + 1) % SIZES["vocabulary_size"]
    after = model(ids)
    assert np.array_equal(before[:, :4], after[:, :4])
    assert not np.array_equal(before[:, 4], after[:, 4])


def test_gradients_add_up_over_micro_batches():
    model = make()
    ids, targets = batch()
    model.zero_grad()
    model.loss(ids, targets)
    model.backward()
    whole = model.storage.grads.copy()
    model.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        model.loss(ids[half], targets[half], 1 / targets.size)
        model.backward()
    assert relative_error(model.storage.grads, whole) < 1e-12


@pytest.mark.parametrize("options", [{}, dict(norm="post"), *KINDS], ids=str)
def test_recomputed_blocks_give_the_same_bits_and_save_less(options):
    config = GPTConfig(17, 9, 12, 3, num_layers=4, dropout=0.2, **options)
    ids, targets = np.random.default_rng(0).integers(0, 17, (2, 3, 9))
    grads, kept = [], []
    for recompute in (False, True):
        model = GPT(config, recompute=recompute)
        for _ in range(2):
            model.loss(ids, targets)
            kept.append(sum(len(m.__dict__.get("_saved", ())) for _, m in model.named_modules()))
            model.backward()
        draws = 3 if config.attention == "softmax" else 2  # in a block
        assert model.generator.count == 2 * (1 + draws * 4)
        grads.append(model.storage.grads.tobytes())
        model.zero_grad()
    assert grads[0] == grads[1]
    assert kept[2] < kept[0] / 4
    model.eval()
    assert model(ids).shape == (3, 9, 17)


def test_one_batch_is_overfit():
    model = GPT(GPTConfig(**SIZES), seed=3)
    optimizer = optim.AdamW(model, lr=3e-3, weight_decay=0.0)
    ids, targets = batch()
    for _ in range(300):
        model.zero_grad()
        loss = model.loss(ids, targets)
        model.backward()
        optimizer.step()
    assert float(loss) < 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_same_bits_for_any_number_of_threads(dropout):
    from byhand import get_num_threads, set_num_threads

    def train() -> bytes:
        model = GPT(GPTConfig(65, 33, 48, 4, 2, dropout=dropout), seed=5)
        optimizer = optim.AdamW(model, lr=1e-3)
        rng = np.random.default_rng(0)
        for _ in range(5):
            ids = rng.integers(0, 65, (2, 9, 33))
            model.zero_grad()
            model.loss(ids[0], ids[1])
            model.backward()
            optimizer.step(clip_norm=1.0)
        return model.storage.values.tobytes()

    before = get_num_threads()
    results = set()
    try:
        for n in (1, 2, 3, 4, 7):
            set_num_threads(n)
            results.add(train())
    finally:
        set_num_threads(before)
    assert len(results) == 1


def test_dropout_is_off_in_eval_and_redrawn_in_training():
    model = make(dropout=0.5, dtype="float32")
    ids, targets = batch()
    with model.no_save():
        first, second = float(model.loss(ids, targets)), float(model.loss(ids, targets))
        assert first != second
        model.generator.load_state_dict({**model.generator.state_dict(), "count": 0})
        assert float(model.loss(ids, targets)) == first
    model.eval()
    assert float(model.loss(ids, targets)) == float(model.loss(ids, targets))
    plain = make(dtype="float32").eval()
    assert float(model.loss(ids, targets)) == float(plain.loss(ids, targets))


def test_an_error_in_the_middle_leaves_the_model_usable():
    model = make(dtype="float32")
    ids, targets = batch()
    bad = targets.copy()
    bad[0, 0] = 17
    with pytest.raises(IndexError, match="17"):
        model.loss(ids, bad)
    assert not model.storage.grads.any()
    model.zero_grad()  # raises if the failed pass had left anything behind
    model.loss(ids, targets)
    model.backward()
    assert np.isfinite(model.storage.grads).all()


ids_ok = np.zeros((2, 3), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m(ids_ok.tolist()), TypeError, "int64 array, got list"),
        (lambda m: m(ids_ok.astype(np.int32)), TypeError, "must be int64, got int32"),
        (lambda m: m(ids_ok[0]), ValueError, r"shape \(B, T\), got \(3,\)"),
        (lambda m: m(np.zeros((1, 10), np.int64)), ValueError, "10 tokens do not fit .* of 9"),
        (lambda m: m(ids_ok + 17), IndexError, "17 is outside"),
        (lambda m: m(ids_ok - 1), IndexError, "-1 is outside"),
        (lambda m: m.loss(ids_ok, ids_ok[:1]), ValueError, "shape of ids"),
        (lambda m: m.backward(), RuntimeError, "without a forward pass"),
        (lambda m: m.inference()(ids_ok) is None or m.backward(), RuntimeError, "keep nothing"),
        (lambda m: m.to(device="tpu"), ValueError, "'cpu' or 'cuda'"),
        (lambda m: m.to(dtype="float16"), ValueError, "float32, float64"),
        (lambda m: m.to(dtype="float128x"), ValueError, "float32, float64, got float128x"),
        (lambda m: m.load_state_dict({}), ValueError, "missing parameters"),
    ],
)
def test_wrong_calls_say_what_was_wrong(call, error, message):
    model = make(dtype="float32")
    with pytest.raises(error, match=message):
        call(model)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("vocabulary_size", 0, ValueError),
        ("context_size", -1, ValueError),
        ("embedding_dim", 12.0, TypeError),
        ("num_heads", 5, ValueError),
        ("num_layers", True, TypeError),
        ("dropout", 1.0, ValueError),
        ("dropout", float("nan"), ValueError),
        ("dropout", "0.1", TypeError),
        ("use_bias", 1, TypeError),
    ],
)
def test_config_names_the_wrong_field(field, value, error):
    with pytest.raises(error, match=field):
        GPTConfig(**{**SIZES, field: value})


def test_config_round_trips():
    config = GPTConfig(**SIZES, dropout=0.1, use_bias=False)
    assert GPTConfig(**config.to_dict()) == config


def test_zero_grad_is_refused_before_the_backward_pass():
    model = make(dtype="float32")
    model(batch()[0])
    with pytest.raises(RuntimeError, match="had no backward pass"):
        model.zero_grad()
    model.discard_saved()
    model.zero_grad()


def test_state_dict_moves_weights_between_models():
    source, target = make(seed=1, dtype="float32"), make(seed=2, dtype="float32")
    target.load_state_dict(source.state_dict())
    assert np.array_equal(source.storage.values, target.storage.values)
    state = {name: value.copy() for name, value in source.state_dict().items()}
    state["decoder.norm.weight"] = state["decoder.norm.weight"][:-1]
    before = target.storage.values.copy()
    with pytest.raises(
        ValueError, match=r"decoder.norm.weight must have shape \(12,\), got \(11,\)"
    ):
        target.load_state_dict(state)
    assert np.array_equal(target.storage.values, before)


def test_casting_keeps_parameters_in_one_buffer():
    model = make(dtype="float32")
    model.to(dtype="float64")
    model.storage.values[...] = 2.0
    assert all((p.value == 2.0).all() and p.value.dtype == np.float64 for p in model.parameters())


@pytest.mark.deep
def test_gradcheck_accepts_correct_models_and_does_not_change_them():
    """For no seed does the truncation error of the difference reject a correct gradient."""
    for seed in range(100):
        model = GPT(GPTConfig(**SIZES, dropout=0.2 * (seed % 2)), seed=seed)
        if seed % 3 == 0:
            model.eval()
        before = model.storage.values.copy(), model.generator.state_dict(), model.training
        gradcheck(model, *batch(seed), directions=1)
        assert np.array_equal(model.storage.values, before[0])
        assert (model.generator.state_dict(), model.training) == before[1:]
        model.zero_grad()


@pytest.mark.parametrize(
    "names",
    [
        ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer"),
        ("vocab_size", "max_position_embeddings", "hidden_size", "num_attention_heads",
         "num_hidden_layers"),
        ("vocabulary_size", "context_size", "embedding_dim", "heads_num", "layers_num"),
    ],
)  # fmt: skip
def test_config_takes_the_names_of_hugging_face_and_of_the_guide(names):
    config = GPTConfig(**dict(zip(names, SIZES.values(), strict=True)), dropout_rate=0.25)
    assert config == GPTConfig(**SIZES, dropout=0.25)


class Doubled(nn.Module):
    """A replacement of a linear layer that doubles its result."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, add=None, again=None):
        y = 2 * self.layer(x, again=again)
        return y if add is None else y + add

    def backward(self, dy):
        return self.layer.backward(2 * dy)


@pytest.mark.parametrize("where", ["ffn.up", "ffn.down", "attention.qkv", "attention.project"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_replacement_of_a_linear_layer_is_called(where, dropout):
    model = make(dropout=dropout)
    ids, targets = batch()
    with model.in_inference():
        before = model(ids)
    part, name = where.split(".")
    for block in model.decoder.blocks:
        owner = getattr(block, part)
        setattr(owner, name, Doubled(getattr(owner, name)))
    model.build()
    with model.in_inference():
        assert relative_error(model(ids), before) > 1e-3
    gradcheck(model, ids, targets)


def test_a_replacement_of_the_head_is_called():
    model = make(dtype="float32")
    ids, targets = batch()
    model.head = Doubled(model.head)
    model.build()
    gradcheck(model, ids, targets)
    ordinary = make(tie_weights=False, dtype="float32")
    doubled = make(tie_weights=False, dtype="float32")
    ordinary.head.weight.value = 2 * ordinary.head.weight.value
    doubled.head = Doubled(doubled.head)
    doubled.build()
    losses = [float(m.loss(ids, targets)) for m in (ordinary, doubled)]
    assert abs(losses[0] - losses[1]) < 1e-5
