"""What people type who know another library: it works, or one sentence says what to type."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, gradcheck, nn, optim
from byhand.generation import generate
from byhand.generation.sampling import row_keys, uniforms
from byhand.ops import cross_entropy
from byhand.tasks import LanguageModel
from byhand.training import evaluate

CONFIG = GPTConfig(17, 9, 12, 3, 2)
IDS, TARGETS = np.random.default_rng(0).integers(0, 17, (2, 4, 7))


@pytest.mark.parametrize("wrong", [17, {"vocab_size": 17}, None, MLPConfig(3, 2)])
def test_a_model_is_made_of_a_configuration(wrong):
    how = "GPT(GPTConfig(vocabulary_size=..., context_size=..., embedding_dim=..., num_heads=..., "
    with pytest.raises(TypeError, match=f"^GPT takes a GPTConfig, got .*{re.escape(how)}"):
        GPT(wrong)
    if not isinstance(wrong, MLPConfig):
        with pytest.raises(TypeError, match=r"^MLP takes a MLPConfig, .* MLP\(MLPConfig\(num_feat"):
            MLP(wrong)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS.tolist(), "must be an int64 array, got list: use np.array({}, np.int64)"),
        (IDS.astype(float), "must be int64, got float64"),
        (IDS.astype(np.int32), "must be int64, got int32: use {}.astype(np.int64)"),
        (IDS.astype(np.uint8), "must be int64, got uint8: use {}.astype(np.int64)"),
        (IDS[0], "must have shape (B, T), got (7,): use {}[None] for one sequence"),
        (IDS[None], "must have shape (B, T), got (1, 4, 7)"),
    ],
)
def test_wrong_ids_and_targets_are_named_with_what_to_type(ids, message):
    model = GPT(CONFIG)
    for name, call in (
        ("ids", lambda: model(ids)),
        ("ids", lambda: model.loss(ids, TARGETS)),
        ("targets", lambda: model.loss(IDS, ids)),
    ):
        expected = f"GPT: {name} {message.format(name)}"
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(expected)}$"):
            call()
    model.zero_grad()


# --- forward and backward -------------------------------------------------------------------------


def test_backward_after_a_pass_without_a_loss_says_what_to_call():
    model = GPT(CONFIG, seed=1)
    model(IDS)
    with pytest.raises(RuntimeError, match=r"model\(ids\), which has no loss: call model\.loss"):
        model.backward()
    assert not model.storage.grads.any()
    model.discard_saved()
    model.loss(IDS, TARGETS)
    with pytest.raises(RuntimeError, match=r"the last forward pass was loss\(ids, targets\)"):
        model.backward(np.zeros((4, 7, 17), np.float32))
    model.backward()


def test_backward_takes_the_gradient_of_the_logits():
    model, other = GPT(CONFIG, seed=1), GPT(CONFIG, seed=1)
    _, saved = cross_entropy.forward(model(IDS), TARGETS)
    model.backward(cross_entropy.backward(1.0, saved))
    other.loss(IDS, TARGETS)
    other.backward()
    np.testing.assert_allclose(model.storage.grads, other.storage.grads, rtol=1e-3, atol=1e-6)
    model.zero_grad()  # nothing waits


def test_passes_with_and_without_a_loss_are_undone_in_their_order():
    model = GPT(CONFIG, seed=1)
    logits = model(IDS)
    model.loss(IDS[::-1], TARGETS)
    with pytest.raises(RuntimeError, match=r"the last forward pass was loss"):
        model.backward_logits(np.ones_like(logits))
    model.backward()
    model.backward_logits(np.ones_like(logits))
    model.zero_grad()


@pytest.mark.parametrize("mode", ["inference", "eval", "train"])
def test_training_a_loaded_model_says_to_call_train(mode):
    """`byhand.load` gives a model in inference mode."""
    model = getattr(GPT(CONFIG, seed=1), mode)()
    optimizer = optim.AdamW(model)
    model.zero_grad()
    model.loss(IDS, TARGETS)
    if mode == "inference":
        with pytest.raises(RuntimeError, match=r"call train\(\) to train a model that is in infer"):
            model.backward()
        with pytest.raises(RuntimeError, match=r"call model\.train\(\) before training it"):
            optimizer.step()
        return
    model.backward()
    optimizer.step()
    assert optimizer.step_count == 1


# --- Generation -----------------------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers():
    model = GPT(CONFIG, seed=1)
    plain = generate(model, [1], max_new_tokens=5, do_sample=True, temperature=0.5, top_k=3, seed=5)
    of_numpy = generate(
        model,
        np.array([1], np.uint8),
        max_new_tokens=np.int32(5),
        do_sample=np.bool_(True),
        temperature=np.float32(0.5),
        top_k=np.int64(3),
        seed=np.uint8(5),
    )
    assert plain.tolist() == of_numpy.tolist()


@pytest.mark.parametrize("temperature", [0.25, 4.0])
@pytest.mark.parametrize("top_k", [1, 4, 0])
def test_every_setting_of_generation_reaches_the_draw(temperature, top_k):
    model = GPT(CONFIG, seed=1).to(dtype="float64")
    model.decoder.norm.weight.value = np.full(12, 30.0)
    written, keys = [2], row_keys(3, [np.array([2])])
    for step in range(6):
        with model.in_inference():
            logits = model(np.array([written]))[0, -1]
        p = np.exp((logits - logits.max()) / temperature)
        if top_k:
            p[logits < np.sort(logits)[-top_k]] = 0
        sums = np.cumsum(p)
        u = uniforms(keys, step)[0]
        written.append(int(np.searchsorted(sums, u * sums[-1], side="right")))
    names = {"do_sample": True, "temperature": temperature, "top_k": top_k, "seed": 3}
    assert generate(model, [2], max_new_tokens=6, **names)[0].tolist() == written


# --- Other names, other types ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("cuda", "to('cuda')"),
        ("double", "to(dtype='float64')"),
        ("requires_grad_", "freeze() and unfreeze()"),
        ("modules", "named_modules()"),
    ],
)
def test_pytorchs_names_of_methods_are_translated(name, instead):
    message = f"'GPT' object has no attribute '{name}': use {instead}"
    with pytest.raises(AttributeError, match=f"^{re.escape(message)}$"):
        getattr(GPT(CONFIG), name)
    with pytest.raises(AttributeError, match=r"^'GPT' object has no attribute 'frobnicate'$"):
        GPT(CONFIG).frobnicate  # noqa: B018
    with pytest.raises(AttributeError, match="'AdamW' object has no attribute 'param_groups': use"):
        optim.AdamW(GPT(CONFIG)).param_groups  # noqa: B018


@pytest.mark.parametrize(
    ("name", "own"), [("data", "value"), ("requires_grad", "trainable"), ("numel", "size")]
)
def test_pytorchs_names_of_attributes_are_translated(name, own):
    p = GPT(CONFIG).head.weight
    message = f"Parameter has no attribute '{name}': it is called {own}"
    for use in (lambda: getattr(p, name), lambda: setattr(p, name, None)):
        with pytest.raises(AttributeError, match=f"^{message}$"):
            use()


def test_a_parameter_is_an_array_for_numpy():
    p = GPT(CONFIG).head.weight
    assert np.array_equal(np.asarray(p), p.value)
    assert np.asarray(p, np.float64).dtype == np.float64
    np.asarray(p)[...] = 0
    assert p.value.any()


@pytest.mark.parametrize("wrong", [0.0, "zeros", np.zeros(3), 1])
def test_an_initialiser_is_a_function(wrong):
    for make in (
        lambda: nn.Linear(2, 3, weight_init=wrong),
        lambda: nn.Linear(2, 3, bias_init=wrong),
        lambda: nn.Embedding(2, 3, weight_init=wrong),
        lambda: nn.FeedForward(2, 3, down_init=wrong),
        lambda: nn.MultiHeadAttention(2, 1, project_init=wrong),
        lambda: nn.Buffer((3,), wrong),
    ):
        with pytest.raises(TypeError, match=r"init must be a function of \(rng, shape\), such as"):
            make()


@pytest.mark.parametrize("wrong", ["x", [1.0], np.ones(3, np.float32)])
def test_a_wrong_scale_is_called_scale(wrong):
    with pytest.raises(TypeError, match=r"GPT: scale must be a number or a 0-d array, got"):
        GPT(CONFIG).loss(IDS, TARGETS, wrong)


def test_a_wrong_cache_is_named():
    model = GPT(CONFIG).inference()
    with pytest.raises(TypeError, match="GPT: cache must be what new_cache"):
        model(IDS, cache=True)
    message = "KeyValueCache: k must have shape (1, 7, 3, 4), got (4, 7, 3, 4)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(IDS, cache=model.new_cache(1))
    with pytest.raises(TypeError, match="batch_size must be a whole number, got 'a'"):
        model.new_cache("a")


def test_a_module_without_passes_says_so():
    class Empty(nn.Module):
        pass

    for use, name in ((lambda m: m(1), "forward"), (lambda m: m.backward(1), "backward")):
        with pytest.raises(NotImplementedError, match=rf"^Empty has no {name}\(\.\.\.\)$"):
            use(Empty().build())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: gradcheck(len, x), TypeError, "gradcheck takes a Module, got builtin_function"),
        (lambda x: gradcheck(nn.Linear(3, 2), x, eps=0), ValueError, "eps must be greater than 0"),
        (lambda x: gradcheck(nn.Linear(3, 2), x, directions=0), ValueError, "directions must be"),
        (lambda x: LanguageModel(MLP(MLPConfig(3, 2))), TypeError, "a model with loss.* got MLP"),
        (lambda x: evaluate(MLP(MLPConfig(3, 2)), []), TypeError, "takes a task, .* got MLP"),
        (lambda x: optim.Constant("1"), ValueError, "Constant: lr must be a finite .*, got '1'"),
        (lambda x: optim.Constant(True), ValueError, "lr must be a finite number >= 0, got True"),
        (
            lambda x: optim.WarmupCosine(1e-3, -10, 100, 0.0),
            ValueError,
            "WarmupCosine: warmup must be a finite number >= 0, got -10",
        ),
    ],
)
def test_other_wrong_arguments_are_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3)))
