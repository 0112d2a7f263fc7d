"""BERT compared with finite differences, and what must not change a bit of it."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

from byhand import Bert, BertConfig, backend, gradcheck, nn, optim
from byhand.models.bert_heads import PADDING, Gather
from byhand.nn.gradcheck import GradcheckError
from byhand.ops import cross_entropy
from tests.models.bert_batches import (
    HEADS,
    LABELS,
    LENGTHS,
    LOSSES,
    SIZES,
    B,
    T,
    batch,
    inputs,
    make,
    outputs,
    relative_error,
    there,
)

heads = pytest.mark.parametrize("head", HEADS, ids=str)
losses = pytest.mark.parametrize("head", LOSSES)
ORDER = ("ids", "labels", "lengths", "segments", "next_sentence_label")


def ordered(made: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [made[name] for name in ORDER if name in made]


class First(nn.Module):
    """A BERT whose outputs are joined into one array, for gradcheck."""

    def __init__(self, model: Bert):
        self.model = model

    def forward(self, *given: np.ndarray) -> np.ndarray:
        ys = outputs(self.model(*given))
        self.push([y.shape for y in ys])
        ys = [np.where(y == PADDING, 0, y) for y in ys]  # beside it small numbers would be lost
        return np.concatenate([y.reshape(-1) for y in ys])

    def backward(self, dy: np.ndarray) -> None:
        shapes = self.pop()
        cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
        parts = np.split(dy, cuts.astype(int))
        self.model.backward(*(d.reshape(s) for d, s in zip(parts, shapes, strict=True)))


# --- Gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@losses
def test_gradients_of_the_losses_match_finite_differences(head, seed):
    gradcheck(make(head, seed, hidden_dropout_prob=0.2 * (seed % 2)), *ordered(batch(head, seed)))


@pytest.mark.deep
@losses
def test_gradients_match_for_twenty_seeds(head):
    for seed in range(20):
        model = make(head, seed, hidden_dropout_prob=0.2)
        gradcheck(model, *ordered(batch(head, seed)), directions=1)


@heads
def test_gradients_of_the_outputs_match_finite_differences(head):
    made = inputs()
    model = make(head, normalize=True, attention_probs_dropout_prob=0.2)
    gradcheck(First(model).build(), made["ids"], made["lengths"], made["segments"])


def test_several_labels_of_an_example():
    made = batch("classification", multiple=True)
    gradcheck(make("classification"), *ordered(made))


def test_a_wrong_backward_pass_is_noticed(monkeypatch):
    right = Gather.backward
    monkeypatch.setattr(Gather, "backward", lambda self, dy: right(self, dy)[::-1].copy())
    with pytest.raises(GradcheckError, match="is off by"):
        gradcheck(make("mlm"), *ordered(batch("mlm")))


@pytest.mark.parametrize("positions", [False, True])
def test_the_masked_loss_is_that_of_all_logits(positions):
    """The head runs at the masked positions only, and the gradients are the same."""
    model, made = make("mlm"), batch("mlm")
    given = made["ids"], made["lengths"], made["segments"]
    logits = model(*given)
    expected, saved = cross_entropy.forward(logits, made["labels"])
    model.backward(cross_entropy.backward(1.0, saved))
    grads = model.storage.grads.copy()
    model.zero_grad()
    if positions:
        at = np.flatnonzero(made["labels"] != -100)
        unused = [0, 0, 5]
        made["positions"] = np.append(at, unused)
        made["labels"] = np.append(made["labels"].reshape(-1)[at], [-100] * len(unused))
    seen = []
    right = model.head.predictions.forward
    model.head.predictions.forward = lambda x: seen.append(x.shape) or right(x)
    loss = model.loss(**made)
    model.backward()
    assert abs(float(loss) - float(expected)) < 1e-12
    assert relative_error(model.storage.grads, grads) < 1e-10
    assert seen == [(np.count_nonzero(batch("mlm")["labels"] != -100) + 3 * positions, 12)]


UNITS = {"mlm": None, "tokens": None, "classification": B, "span": B, "pretraining": B}


@losses
def test_a_scale_makes_the_sum(head):
    made = batch(head)
    units = UNITS[head] or np.count_nonzero(made["labels"] != -100)
    grads = []
    for scale in (None, 1 / units, np.array(1 / units)):
        model = make(head)
        loss = float(model.loss(**made, scale=scale))
        model.backward()
        grads.append((loss, model.storage.grads.copy()))
    for loss, grad in grads[1:]:
        assert abs(loss - grads[0][0]) < 1e-12
        assert relative_error(grad, grads[0][1]) < 1e-12


@pytest.mark.parametrize("head", ["mlm", "classification", "tokens", "span"])
def test_gradients_add_up_over_micro_batches(head):
    made = batch(head)
    units = UNITS[head] or np.count_nonzero(made["labels"] != -100)
    model = make(head)
    model.loss(**made)
    model.backward()
    whole = model.storage.grads.copy()
    model.zero_grad()
    for half in (slice(0, 1), slice(1, 4)):
        model.loss(**{name: a[half] for name, a in made.items()}, scale=1 / units)
        model.backward()
    assert relative_error(model.storage.grads, whole) < 1e-12


def test_a_batch_without_a_masked_position_is_0_with_a_scale():
    model, made = make("mlm"), batch("mlm")
    made["labels"][:] = -100
    assert float(model.loss(**made, scale=1.0)) == 0
    model.backward()
    assert not model.storage.grads.any()


# --- What changes no bit --------------------------------------------------------------------------


def bits(model: Bert, made: dict[str, np.ndarray]) -> tuple[list[np.ndarray], float, bytes]:
    """The outputs, and where there is one the loss and every gradient."""
    with model.no_save():
        given = made["ids"], made["lengths"], made["segments"]
        ys = [y.copy() for y in outputs(model(*given))]
    if "labels" not in made:
        return ys, 0.0, b""
    loss = float(model.loss(**made))
    model.backward()
    grads = model.storage.grads.tobytes()
    model.zero_grad()
    return ys, loss, grads


@pytest.mark.parametrize("name", [*backend.cpu_modules(), "float64"])
@heads
def test_padding_moves_no_bit(head, name):
    model = make(head, dtype="float64" if name == "float64" else "float32")
    with backend.use_cpu(name if name != "float64" else next(iter(backend.cpu_modules()))):
        made = batch(head)
        before = bits(model, made)
        other = {key: a.copy() for key, a in made.items()}
        other["ids"][~there()] = (other["ids"][~there()] + 5) % SIZES["vocab_size"]
        other["segments"][~there()] ^= 1
        after = bits(model, other)
    for y, z in zip(before[0], after[0], strict=True):
        seen = there() if y.shape[:2] == (B, T) else np.ones(B, bool)
        assert y[seen].tobytes() == z[seen].tobytes()
    assert before[1:] == after[1:]


@heads
def test_another_row_moves_no_bit(head):
    model = make(head, dtype="float32").inference()
    made = batch(head)
    before = bits(model.inference(), {k: made[k] for k in ("ids", "lengths", "segments")})[0]
    made["ids"][2] = (made["ids"][2] + 1) % SIZES["vocab_size"]
    made["ids"][0, 3] = (made["ids"][0, 3] + 1) % SIZES["vocab_size"]
    made["lengths"][2] = 6
    after = bits(model, {k: made[k] for k in ("ids", "lengths", "segments")})[0]
    for y, z in zip(before, after, strict=True):
        keep = [1, 3]
        assert y[keep].tobytes() == z[keep].tobytes()
        assert y[0].tobytes() != z[0].tobytes()
        assert y[2].tobytes() != z[2].tobytes()


def test_rows_are_what_they_are_alone():
    model, made = make("tokens").inference(), inputs()
    together = model(**made)
    for i, n in enumerate(LENGTHS):
        alone = model(made["ids"][i : i + 1, :n].copy(), None, made["segments"][i : i + 1, :n])
        assert relative_error(together[i, :n], alone[0]) < 1e-12


def test_every_position_sees_every_other():
    model, made = make(None).inference(), inputs()
    made["lengths"][:] = T
    before = model(**made).hidden
    made["ids"][:, 5] = (made["ids"][:, 5] + 1) % SIZES["vocab_size"]
    assert (np.abs(model(**made).hidden - before).max(-1) > 0).all()


@pytest.mark.parametrize("head", ["mlm", "span"])
def test_the_same_bits_for_any_number_of_threads(head):
    from byhand import get_num_threads, set_num_threads

    def train() -> bytes:
        model = make(head, dtype="float32", dropout=0.2)
        optimizer = optim.AdamW(model, lr=1e-3)
        for seed in range(3):
            model.zero_grad()
            model.loss(**batch(head, seed))
            model.backward()
            optimizer.step(clip_norm=1.0)
        return model.storage.values.tobytes()

    before, results = get_num_threads(), set()
    try:
        for n in (1, 2, 7):
            set_num_threads(n)
            results.add(train())
    finally:
        set_num_threads(before)
    assert len(results) == 1


# --- Options --------------------------------------------------------------------------------------


@losses
def test_recomputed_blocks_give_the_same_bits_and_save_less(head):
    grads, kept = [], []
    for recompute in (False, True):
        model = make(head, dtype="float32", recompute=recompute, dropout=0.2, num_layers=4)
        for seed in range(2):
            model.loss(**batch(head, seed))
            kept.append(sum(len(m.__dict__.get("_saved", ())) for _, m in model.named_modules()))
            model.backward()
        grads.append((model.storage.grads.tobytes(), model.generator.count))
    assert grads[0] == grads[1]
    assert kept[2] < kept[0] / 2


@heads
def test_bf16_rounds_the_products(head):
    made = inputs()
    plain, rounded = make(head, dtype="float32"), make(head, dtype="float32", precision="bf16")
    for y, z in zip(outputs(plain(**made)), outputs(rounded(**made)), strict=True):
        seen = there() if y.shape[:2] == (B, T) else np.ones(B, bool)
        assert 1e-5 < relative_error(z[seen], y[seen]) < 0.1
    if head in LOSSES:
        plain.discard_saved(), rounded.discard_saved()
        found = [float(m.loss(**batch(head))) for m in (plain, rounded)]
        for model in (plain, rounded):
            model.backward()
        assert found[0] == pytest.approx(found[1], rel=0.05)
        assert found[0] != found[1]
        grads = [m.storage.grads for m in (plain, rounded)]
        assert 1e-4 < relative_error(grads[1], grads[0]) < 0.2


@heads
def test_copies_and_pickles_and_saved_weights(head):
    model, made = make(head, dtype="float32", hidden_act="relu"), inputs()
    loaded = Bert(model.config, draw=False)
    loaded.load_state_dict(model.state_dict())
    with model.no_save():
        wanted = [y.tobytes() for y in outputs(model(**made))]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        assert other.config == model.config
        with other.no_save():
            assert [y.tobytes() for y in outputs(other(**made))] == wanted
        other.storage.values[...] += 1  # memory of its own
    with model.no_save():
        assert [y.tobytes() for y in outputs(model(**made))] == wanted


@pytest.mark.parametrize("head", LOSSES)
def test_frozen_parameters_do_not_move(head):
    model, made = make(head, dtype="float32"), batch(head)
    model.freeze("encoder.*")
    optimizer = optim.AdamW(model, lr=0.1)
    before = {name: p.value.copy() for name, p in model.named_parameters()}
    model.loss(**made)
    model.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert np.array_equal(p.value, before[name]) == name.startswith("encoder."), name


@losses
def test_one_batch_is_overfit(head):
    made = batch(head)
    model = Bert(BertConfig(**SIZES), head, LABELS, seed=3)
    optimizer = optim.AdamW(model, lr=5e-3, weight_decay=0.0)
    for _ in range(200):
        model.zero_grad()
        loss = model.loss(**made)
        model.backward()
        optimizer.step()
    assert float(loss) < 0.1


def test_the_dropouts_reach_their_places():
    def losses_of(**options: Any) -> tuple[float, float]:
        model = make("classification", **{**SIZES, **options})
        made = batch("classification")
        with model.no_save():
            return float(model.loss(**made)), float(model.loss(**made))

    plain = losses_of()
    assert plain[0] == plain[1]
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        first, second = losses_of(**{name: 0.5})
        assert first != second
    model = make("classification", dropout=0.5).eval()
    assert float(model.loss(**batch("classification"))) == plain[0]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_of_the_activations_is_no_more_than_is_kept(recompute):
    config = BertConfig(50, 64, 6, 4, 256, max_position_embeddings=32, dropout=0.0)
    kept = Bert(config, recompute=recompute).summary((8, 32)).activation_bytes
    estimate = 4 * config.saved_activations(8 * 32, recompute)
    if recompute:  # the summary does not see the block that is computed again
        estimate -= 4 * (config.saved_activations(8 * 32) - 64 * 256) // 6
    assert 0.85 * kept <= estimate <= kept


def test_the_summary_counts_a_whole_model():
    C, H, V, L = 12, 17, 19, 2
    block = 4 * (C * C + C) + (2 * C * H + H + C) + 4 * C
    encoder = (V + 11 + 2) * C + 2 * C + L * block
    assert make(None).num_parameters() == encoder + C * C + C
    assert make("mlm").num_parameters() == encoder + C * C + C + 2 * C + V
    assert "decoder" in str(make("mlm").summary(batch=2))


# --- Configuration --------------------------------------------------------------------------------


def test_the_configuration_takes_byhands_names():
    config = BertConfig(
        vocabulary_size=19, embedding_dim=12, num_layers=2, num_heads=3, intermediate_size=17,
        context_size=11, dropout=0.0,
    )  # fmt: skip
    assert config == BertConfig(**SIZES)
    assert BertConfig.from_dict(config.to_dict()) == config
    names = "vocabulary_size context_size embedding_dim num_heads num_layers".split()
    assert [getattr(config, name) for name in names] == [19, 11, 12, 3, 2]
    assert BertConfig(dropout=0.3).attention_probs_dropout_prob == 0.3


def test_head_and_labels_are_part_of_the_configuration():
    config = BertConfig(**SIZES)
    model = Bert(config, "tokens", 7)
    assert (model.config.head, model.config.num_labels) == ("tokens", 7)
    assert Bert(model.config)(inputs()["ids"]).shape == (B, T, 7)
    assert config.head is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(num_heads=5), ValueError, "must be a multiple of num_attention_heads, got 12 and 5"),
        (dict(head="tokns"), ValueError, "head must be mlm, .*(did you mean tokens?), got 'tokns'"),
        (dict(hidden_act="gleu"), ValueError, "hidden_act must be .*(did you mean gelu?), got"),
        (dict(pad_token_id=19), ValueError, "pad_token_id must be less than vocab_size = 19"),
        (dict(vocab_siz=3), TypeError, "'vocab_siz' is unknown (did you mean vocab_size?)"),
        (dict(dropout=1.0), ValueError, "hidden_dropout_prob must be at least 0 and less than 1"),
        (dict(num_labels=0), ValueError, "num_labels must be at least 1, got 0"),
    ],
)
def test_wrong_configurations_are_one_sentence(change, error, message):
    sizes = {k: v for k, v in SIZES.items() if not k.endswith("_prob")}
    if "num_heads" in change:
        del sizes["num_attention_heads"]
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(error, match=f"^BertConfig: .*{pattern}"):
        Bert(BertConfig(**{**sizes, **change}))


def test_an_unknown_head_of_the_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean span\?\), got 'spam'"):
        Bert(BertConfig(**SIZES), head="spam")
