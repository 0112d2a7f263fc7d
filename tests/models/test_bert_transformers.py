"""BERT beside that of Hugging Face's transformers, with the same random weights: outputs, losses
and every gradient in float64, to 1e-9, with padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand import Bert, backend, optim
from byhand.models.bert import HF
from byhand.models.bert_heads import PADDING
from byhand.models.weight_names import to_hugging_face
from tests.models.bert_batches import HEADS, LABELS, batch, make, outputs, relative_error, there

CLASSES = {
    None: "BertModel",
    "mlm": "BertForMaskedLM",
    "pretraining": "BertForPreTraining",
    "classification": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "span": "BertForQuestionAnswering",
    "embedding": "BertModel",
}


def twin(model: Bert) -> Any:
    """Its twin in transformers, with the same weights."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    c = model.config
    fields = c.to_dict()
    for own in ("head", "normalize", "labels"):
        del fields[own]
    if c.head == "span":
        fields["num_labels"] = 2
    config = transformers.BertConfig(**fields, attn_implementation="eager")
    made = getattr(transformers, CLASSES[c.head])(config).double().eval()
    theirs = dict(made.named_parameters())
    weights = to_hugging_face(HF(c), model.state_dict())
    with torch.no_grad():
        for name, value in weights.items():
            theirs[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
    unused = theirs.keys() - weights.keys()
    assert unused <= ({"pooler.dense.weight", "pooler.dense.bias"} if c.head else set())
    return made


def require_same_gradients(model: Bert, theirs: Any) -> None:
    found = dict(theirs.named_parameters())
    ours = {name: p.grad for name, p in model.named_parameters()}
    for name, grad in to_hugging_face(HF(model.config), ours).items():
        wanted = found[name].grad.numpy()
        # Some gradients are 0, as that of a bias that shifts all scores of a query.
        assert np.abs(grad - wanted).max() < max(1e-9 * np.abs(wanted).max(), 1e-13), name


def arguments(made: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {
        "input_ids": torch.from_numpy(made["ids"]),
        "attention_mask": torch.from_numpy(there(made["lengths"]).astype(np.int64)),
        "token_type_ids": torch.from_numpy(made["segments"]),
    }


OUTPUTS = {
    None: ("last_hidden_state", "pooler_output"),
    "mlm": ("logits",),
    "pretraining": ("prediction_logits", "seq_relationship_logits"),
    "classification": ("logits",),
    "tokens": ("logits",),
    "span": ("start_logits", "end_logits"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("head", HEADS[:-1], ids=str)
def test_outputs_and_their_gradients(head, seed):
    torch = pytest.importorskip("torch")
    model = make(head, seed)
    other = twin(model)
    made = batch(head, seed)
    theirs = [other(**arguments(made))[name] for name in OUTPUTS[head]]
    ours = outputs(model(made["ids"], made["lengths"], made["segments"]))
    rng = np.random.default_rng(seed)
    gradients, total = [], 0.0
    for y, wanted in zip(ours, theirs, strict=True):
        seen = there() if y.shape[:2] == there().shape else np.ones(len(y), bool)
        assert relative_error(y[seen], wanted.detach().numpy()[seen]) < 1e-9
        dy = rng.standard_normal(y.shape)
        dy[~seen] = 0
        gradients.append(dy)
        total = total + (wanted * torch.from_numpy(dy)).sum()
    model.backward(*gradients)
    total.backward()
    require_same_gradients(model, other)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("head", "multiple"),
    [(head, False) for head in HEADS[1:-1]] + [("classification", True)],
)
def test_losses_and_their_gradients(head, multiple, seed):
    torch = pytest.importorskip("torch")
    model = make(head, seed)
    other = twin(model)
    made = batch(head, seed, multiple)
    labels = torch.from_numpy(made["labels"])
    given = arguments(made)
    if head == "span":  # there the padding is in the softmax; here it is not
        found = other(**given)
        padding = torch.from_numpy(~there())
        expected = sum(
            torch.nn.functional.cross_entropy(z.masked_fill(padding, PADDING), labels[:, i])
            for i, z in enumerate((found.start_logits, found.end_logits))
        ) / 2  # fmt: skip
    elif head == "pretraining":
        following = torch.from_numpy(made["next_sentence_label"])
        expected = other(**given, labels=labels, next_sentence_label=following).loss
    else:
        expected = other(**given, labels=labels).loss
    expected.backward()
    loss = model.loss(**made)
    assert loss.shape == ()
    assert abs(float(loss) - expected.item()) < 1e-9
    model.backward()
    require_same_gradients(model, other)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_spans_without_padding(seed):
    torch = pytest.importorskip("torch")
    model = make("span", seed)
    other = twin(model)
    made = batch("span", seed)
    made["lengths"][:] = 7
    start, end = torch.from_numpy(made["labels"]).unbind(1)
    expected = other(**arguments(made), start_positions=start, end_positions=end).loss
    expected.backward()
    del made["lengths"]
    assert abs(float(model.loss(**made)) - expected.item()) < 1e-9
    model.backward()
    require_same_gradients(model, other)


@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings_are_the_mean_over_what_is_no_padding(normalize):
    torch = pytest.importorskip("torch")
    model = make("embedding", normalize=normalize)
    other = twin(model)
    made = batch("embedding")
    hidden = other(**arguments(made)).last_hidden_state
    seen = torch.from_numpy(there().astype(float))[:, :, None]
    wanted = (hidden * seen).sum(1) / seen.sum(1)
    if normalize:
        wanted = torch.nn.functional.normalize(wanted)
    y = model(**made)
    assert relative_error(y, wanted.detach().numpy()) < 1e-9
    dy = np.random.default_rng(0).standard_normal(y.shape)
    (wanted * torch.from_numpy(dy)).sum().backward()
    model.backward(dy)
    require_same_gradients(model, other)


@pytest.mark.parametrize("head", ["mlm", "pretraining", "tokens"])
def test_ten_steps_of_an_optimizer(head):
    torch = pytest.importorskip("torch")
    model = make(head)
    other = twin(model)
    settings = dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0)
    ours, theirs = optim.AdamW(model, **settings), torch.optim.AdamW(other.parameters(), **settings)
    for step in range(10):
        made = batch(head, step)
        labels = {n: torch.from_numpy(made[n]) for n in made if "label" in n}
        other(**arguments(made), **labels).loss.backward()
        theirs.step()
        other.zero_grad()
        model.loss(**made)
        model.backward()
        ours.step()
        model.zero_grad()
    found = dict(other.named_parameters())
    for name, value in to_hugging_face(HF(model.config), model.state_dict()).items():
        assert relative_error(value, found[name].detach().numpy()) < 1e-9, name


@pytest.mark.parametrize("name", backend.cpu_modules())
@pytest.mark.parametrize("head", ["mlm", "classification", "tokens"])
def test_float32_kernels_are_as_exact_as_pytorch(head, name):
    """The error against float64 is at most a few times that of PyTorch's float32 on the same
    weights: the tolerance is measured, not chosen.
    """
    torch = pytest.importorskip("torch")
    truth, fast = make(head), make(head, dtype="float32")
    other = twin(fast).float()
    made = batch(head)
    true_loss = float(truth.loss(**made))
    truth.backward()
    expected = other(**arguments(made), labels=torch.from_numpy(made["labels"])).loss
    expected.backward()
    with backend.use_cpu(name):
        loss = float(fast.loss(**made))
        fast.backward()
    eps = np.finfo(np.float32).eps
    theirs = dict(other.named_parameters())
    assert abs(loss - true_loss) <= 4 * abs(expected.item() - true_loss) + 8 * eps * true_loss
    exact = dict(truth.named_parameters())
    scale = max(np.abs(p.grad).max() for p in exact.values())
    there_of = {weight.name: weight.there for weight in HF(fast.config)}
    for path, p in fast.named_parameters():
        right = exact[path].grad
        torchs = np.concatenate([theirs[name].grad.numpy() for name in there_of[path]])
        allowed = 4 * np.abs(torchs - right).max() + 8 * eps * scale
        assert np.abs(p.grad - right).max() <= allowed, path


@pytest.mark.parametrize("function", ["gelu_new", "relu", "silu"])
def test_other_functions(function):
    torch = pytest.importorskip("torch")
    model = make("mlm", hidden_act=function)
    other = twin(model)
    made = batch("mlm")
    expected = other(**arguments(made), labels=torch.from_numpy(made["labels"])).loss
    expected.backward()
    assert abs(float(model.loss(**made)) - expected.item()) < 1e-9
    model.backward()
    require_same_gradients(model, other)


def test_the_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    from byhand import BertConfig

    theirs = transformers.BertConfig().to_dict()
    for name, value in BertConfig().to_dict().items():
        if name in theirs:
            assert value == theirs[name], name
    assert LABELS != BertConfig().num_labels == transformers.BertConfig().num_labels
