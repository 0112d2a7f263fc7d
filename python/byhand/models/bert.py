"""BERT: an encoder transformer (Devlin et al., 2018, arXiv:1810.04805).

    ids -> token + segment + position embedding -> norm -> dropout
        -> blocks: norm(x + attention(x)), norm(x + feed-forward(x))
        -> a head -> its output

Every position attends to every position of its row but the padding. The backward pass is the
forward pass read from the bottom up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import (
    choice,
    config,
    flag,
    non_negative,
    non_negative_int,
    positive_int,
    probability,
    require_config,
    strings,
)
from byhand.models.bert_encoder import Encoder
from byhand.models.bert_heads import Masked, head_of
from byhand.models.bert_inputs import check_inputs, check_labels, require_counted
from byhand.models.preset import Preset
from byhand.models.weight_names import Weight
from byhand.nn import Module, activation
from byhand.nn.protocol import converted
from byhand.ops import check

HEADS = ("mlm", "pretraining", "classification", "tokens", "span", "embedding")
_FORWARD = "forward"  # saved by a forward pass without a loss


@config
class BertConfig(ConfigBase):
    """The sizes of a BERT, with Hugging Face's names and defaults; byhand's names are accepted too.

    Attributes:
        vocab_size: number of token ids, 0 .. vocab_size - 1.
        hidden_size: width; a multiple of num_attention_heads.
        num_hidden_layers: blocks.
        num_attention_heads: attention heads per block.
        intermediate_size: width of the hidden layer of the feed-forward parts.
        hidden_act: their activation function, one of ``nn.activation.NAMES``.
        hidden_dropout_prob: dropout after the embedding, before each residual, before a classifier.
        attention_probs_dropout_prob: dropout of the attention probabilities. ``dropout`` sets both.
        max_position_embeddings: the most tokens the model sees at once.
        type_vocab_size: number of segments.
        initializer_range: standard deviation of the first weights.
        layer_norm_eps: added to the variance in norms.
        pad_token_id: the id that fills up rows of different lengths.
        classifier_dropout: dropout before a classifier; None: hidden_dropout_prob.
        num_labels: outputs of the heads "classification" and "tokens".
        head: what the model computes, see `Bert`.
        normalize: whether the head "embedding" scales its vectors to length 1.
        labels: names of the num_labels labels; () if they have none.
    """

    vocab_size: int = positive_int(30522, help="different tokens", aliases=("vocabulary_size",))
    hidden_size: int = positive_int(
        768,
        help="numbers that describe a token in the model",
        aliases=("embedding_dim",),
        flag="--width",
    )
    num_hidden_layers: int = positive_int(
        12, help="transformer blocks", aliases=("num_layers",), flag="--layers"
    )
    num_attention_heads: int = positive_int(
        12,
        help="attention heads in a block; divides the width",
        aliases=("num_heads",),
        flag="--heads",
    )
    intermediate_size: int = positive_int(3072, help="width inside the feed-forward parts")
    hidden_act: str = choice(tuple(activation.NAMES), "gelu", help="their activation function")
    hidden_dropout_prob: float = probability(
        0.1,
        help="part of the activations zeroed while training",
        aliases=("dropout",),
        flag="--dropout",
        default_text="",
    )
    attention_probs_dropout_prob: float = probability(
        0.1,
        help="part of the attention probabilities zeroed while training",
        aliases=("dropout",),
        flag="--attention-dropout",
        default_text="",
    )
    max_position_embeddings: int = positive_int(
        512,
        help="the most tokens the model sees at once",
        aliases=("context_size",),
        flag="--context",
    )
    type_vocab_size: int = positive_int(2, help="different segments")
    initializer_range: float = non_negative(0.02, help="standard deviation of the first weights")
    layer_norm_eps: float = non_negative(1e-12, help="added to the variance in norms")
    pad_token_id: int = non_negative_int(0, help="the id that fills up rows")
    classifier_dropout: float | None = probability(None, help="dropout before a classifier")
    num_labels: int = positive_int(2, help="outputs of a classifier")
    head: str | None = choice(HEADS, None, help="what the model computes")
    normalize: bool = flag(False, help="embeddings have length 1")
    labels: tuple[str, ...] = strings((), help="names of the labels")

    def check(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise self.error(
                "hidden_size must be a multiple of num_attention_heads, got "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )
        self.require(
            self.pad_token_id < self.vocab_size,
            "pad_token_id",
            f"less than vocab_size = {self.vocab_size}",
        )

        if self.labels and len(self.labels) != self.num_labels:
            raise self.error(f"{len(self.labels)} labels do not fit num_labels = {self.num_labels}")

    vocabulary_size = property(lambda self: self.vocab_size)
    context_size = property(lambda self: self.max_position_embeddings)
    embedding_dim = property(lambda self: self.hidden_size)
    num_heads = property(lambda self: self.num_attention_heads)
    num_layers = property(lambda self: self.num_hidden_layers)

    def saved_activations(self, tokens: int, recompute: bool = False) -> int:
        """How many numbers a training step keeps at least between the forward and the backward pass
        of a batch of so many tokens.

        The embedding keeps width numbers for each token, and a block its input, queries, keys
        and values (3), the attention's output and both residual sums (3), all of this width, and
        the hidden layer of its feed-forward part. With ``recompute`` a block keeps only its input,
        and one block at a time the rest.
        """
        block = 7 * self.hidden_size + self.intermediate_size
        kept = self.num_hidden_layers * (self.hidden_size if recompute else block)
        return tokens * (kept + recompute * block + self.hidden_size)


class Bert(Module):
    """A BERT with float32 parameters drawn from ``seed``; ``precision`` is "float32" or "bf16" (see
    `Module.precision`), ``recompute`` saves memory (see `Encoder`). ``draw=False`` leaves the
    weights undefined, for weights that will be loaded.

        outputs = model(ids, lengths, segments)  # ids (B, T) int64
        loss = model.loss(ids, labels, lengths, segments)  # a 0-d array
        model.backward()  # adds its gradient to every Parameter.grad

    head, outputs and the labels of ``loss``, all labels int64:

        None              `Hidden`: (B, T, C) and (B, C); no loss
        "mlm"             logits (B, T, V); labels (B, T), the tokens under the masks, else -100
        "pretraining"     `PretrainingLogits`; those labels, and next_sentence_label (B,), 0 or 1
        "classification"  logits (B, num_labels); labels (B,), or for several labels of an example
                          floats in 0..1 (B, num_labels)
        "tokens"          logits (B, T, num_labels); labels (B, T), -100 does not count
        "span"            `SpanLogits`, two times (B, T); labels (B, 2), the positions of the first
                          and the last token of the answer, or -100 twice
        "embedding"       vectors (B, C), the mean over the positions that are no padding; no loss

    ``lengths`` (B,) int64 says how many positions of each row are no padding; None: all.
    ``segments`` (B, T) int64 says which text a token is of; None: 0. What padding holds changes no
    bit of any other output, nor of the loss and its gradients. For that the softmax of the head
    "span" leaves the padding out, where Hugging Face's has it in. ``sequences`` (B, T) int64, never
    decreasing in a row, number several sequences that are packed in a row, as `data.PackedDataset`
    makes them, for the heads "mlm" and "tokens": no position sees another sequence, and the
    positions of each begin at 0.

    ``head`` and ``num_labels``, where given, replace those of the configuration. A model with one
    label is no regression, as it is with Hugging Face, but a classifier of yes and no.
    """

    def __init__(
        self,
        config: BertConfig,
        head: str | None = None,
        num_labels: int | None = None,
        seed: int = 0,
        precision: str = "float32",
        recompute: bool = False,
        draw: bool = True,
    ):
        c = require_config("Bert", config, BertConfig)
        given = {"head": head, "num_labels": num_labels}
        c = c.replace(**{name: value for name, value in given.items() if value is not None})
        self._config = c
        self.encoder = Encoder(c, recompute)
        self.head = head_of(c)
        if isinstance(self.head, Masked):
            self.head.predictions.decoder.weight = self.encoder.tokens.weight
        self.precision = precision
        self.build(seed, draw=draw)

    @property
    def config(self) -> BertConfig:
        """The sizes that the model was made with; a model of other sizes is a new model."""
        return self._config

    _input_dtype = np.int64

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.max_position_embeddings

    def forward(
        self,
        ids: Array,
        lengths: Array | None = None,
        segments: Array | None = None,
        sequences: Array | None = None,
    ) -> Any:
        """The outputs of the head, see the class. Raises ValueError for a wrong shape, more tokens
        than the context holds or a row of nothing but padding, TypeError for ids that are not
        int64, IndexError for an unknown id.
        """
        with self.discard_on_error():
            hidden = self.encoder(ids, lengths, segments, sequences)
            y = self.head(hidden, lengths, self.encoder.there(ids, lengths))
            self.push(_FORWARD)
        return y

    def backward(self, *gradients: Array) -> None:
        """Adds to every Parameter.grad: after ``loss`` its gradient; after ``model(ids)`` that of
        the outputs, whose gradients are the arguments, in their order. RuntimeError when that does
        not fit the last forward pass.
        """
        saved = self.peek()
        if gradients and saved is not _FORWARD:
            raise RuntimeError(
                "Bert.backward: the last forward pass was loss(...), whose gradient backward() "
                "adds without an argument"
            )
        if not gradients and saved is _FORWARD:
            raise RuntimeError(
                "Bert.backward: the last forward pass was model(ids), which has no loss: call "
                "model.loss(ids, labels) instead, or pass the gradients of the outputs"
            )
        if gradients and len(gradients) != self.head.outputs:
            raise TypeError(
                f"Bert.backward takes the gradients of {self.head.outputs} outputs, got "
                f"{len(gradients)}"
            )
        d = self.head.backward(*(gradients or saved))
        self.pop()
        self.encoder.backward(d)

    def loss(
        self,
        ids: Array,
        labels: Array,
        lengths: Array | None = None,
        segments: Array | None = None,
        next_sentence_label: Array | None = None,
        positions: Array | None = None,
        scale: Any = None,
        sequences: Array | None = None,
    ) -> Array:
        """The mean loss in nats, a 0-d array: over the labels that count; of "span" over the starts
        and the ends; of "pretraining" the sum of the means over the masked tokens and over the
        pairs; of several labels of an example over all of them.

        With ``scale``, a number or a 0-d array, the result is the sum over the labels (of "span"
        over the answers, of several labels over the examples; of "pretraining" that mean times the
        number of pairs) times the scale, as needed for a mean over several batches.

        The head "mlm" computes logits only at the positions whose labels count. ``positions``
        (...) int64, b * T + t, may name them, with labels of the same shape: on a GPU that is
        needed for a step whose shapes do not change.

        ValueError, TypeError and IndexError name what is wrong. A call that raises one has changed
        nothing.
        """
        given = ids, labels, lengths, segments, next_sentence_label, positions, scale, sequences
        given, _ = converted("Bert", self.loss, given, {})
        ids, labels, lengths, segments, next_sentence_label, positions, scale, sequences = given
        self.check(ids, labels, lengths, segments, next_sentence_label, positions, sequences)
        if getattr(scale, "shape", ()) != () or isinstance(scale, (str, list, tuple)):
            raise TypeError(f"Bert: scale must be a number or a 0-d array, got {scale!r}")
        if scale is None and labels.dtype == np.int64:
            require_counted(labels)
        with self.discard_on_error():
            hidden = self.encoder(ids, lengths, segments, sequences)
            if isinstance(self.head, Masked):
                rest = next_sentence_label, positions, scale
                loss, gradients = self.head.loss(hidden, labels, *rest)
            else:
                y = self.head(hidden, lengths, self.encoder.there(ids, lengths))
                loss, gradients = self.head.loss(y, labels, scale)
            self.push(gradients)
        return loss

    def logits_at(
        self,
        ids: Array,
        positions: Array,
        lengths: Array | None = None,
        segments: Array | None = None,
        sequences: Array | None = None,
    ) -> Array:
        """The logits (N, V) of the tokens at positions (N,) int64, b * T + t, of a model with the
        head "mlm" or "pretraining"; saves nothing.
        """
        with self.no_save():
            return self.head.logits_at(self.encoder(ids, lengths, segments, sequences), positions)

    def next_sentence_logits(
        self, ids: Array, lengths: Array | None = None, segments: Array | None = None
    ) -> Array:
        """Only the second output of a model with the head "pretraining", (B, 2); saves nothing."""
        with self.no_save():
            hidden = self.encoder(ids, lengths, segments)
            return self.head.next_sentence(self.head.pooler(hidden))

    def check(
        self,
        ids: Any,
        labels: Any,
        lengths: Any = None,
        segments: Any = None,
        next_sentence_label: Any = None,
        positions: Any = None,
        sequences: Any = None,
    ) -> None:
        """The errors of ``loss``; values are checked in numpy arrays only."""
        check_inputs(self.config, ids, lengths, segments, sequences)
        check.ids("Bert", "ids", ids, self.config.vocab_size)
        check_labels(self.config, ids, labels, lengths, positions, next_sentence_label)


Config, Model = BertConfig, Bert


# --- Hugging Face's names ------------------------------------------------------------------------

_ENCODER = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_BLOCK: dict[str, tuple[str, ...]] = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.project": ("attention.output.dense",),
    "norm1": ("attention.output.LayerNorm",),
    "ffn.up": ("intermediate.dense",),
    "ffn.down": ("output.dense",),
    "norm2": ("output.LayerNorm",),
}
_MLM = {
    "predictions.transform": "cls.predictions.transform.dense",
    "predictions.norm": "cls.predictions.transform.LayerNorm",
    "predictions.decoder": "cls.predictions",  # its bias; its weight is that of the tokens
}
_HEADS: dict[str | None, dict[str, str]] = {
    None: {},
    "mlm": _MLM,
    "pretraining": {**_MLM, "next_sentence": "cls.seq_relationship"},
    "classification": {"classifier": "classifier"},
    "tokens": {"classifier": "classifier"},
    "span": {"linear": "qa_outputs"},
    "embedding": {},
}


def HF(c: BertConfig) -> Iterator[Weight]:
    """The weights of a model of these sizes as transformers' classes name them: BertModel (without
    a head, and with "embedding"), BertForMaskedLM, BertForPreTraining,
    BertForSequenceClassification, BertForTokenClassification and BertForQuestionAnswering.
    """
    below = "" if c.head in (None, "embedding") else "bert."

    def both(ours: str, *theirs: str) -> Iterator[Weight]:
        rows = (c.hidden_size,) * len(theirs) if len(theirs) > 1 else ()
        for kind in ("weight", "bias"):
            yield Weight(f"{ours}.{kind}", tuple(f"{one}.{kind}" for one in theirs), rows)

    for ours, theirs in _ENCODER.items():
        of_encoder = list(both(f"encoder.{ours}", below + theirs))
        yield from of_encoder if ours == "norm" else of_encoder[:1]
    for i in range(c.num_hidden_layers):
        for ours, parts in _BLOCK.items():
            there = [f"{below}encoder.layer.{i}.{part}" for part in parts]
            yield from both(f"encoder.blocks.{i}.{ours}", *there)
    if c.head in (None, "pretraining", "classification"):
        yield from both("head.pooler.dense", f"{below}pooler.dense")
    for ours, theirs in _HEADS[c.head].items():
        of_head = list(both(f"head.{ours}", theirs))
        yield from of_head[1:] if ours == "predictions.decoder" else of_head


# Fields that `byhand train` takes from the data and the tokenizer.
FROM_DATA = ("vocab_size", "pad_token_id", "num_labels", "head", "normalize", "labels")


def _sizes(layers: int, heads: int, width: int, context: int, dropout: float) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "max_position_embeddings": context,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }


PRESETS = {
    "tiny": Preset(
        "0.4 million and the embeddings",
        _sizes(2, 2, 128, 128, 0.0),
        {"batch_size": 16, "steps": 2000, "lr": 1e-3, "eval_every": 250},
    ),
    "mini": Preset(
        "3.2 million and the embeddings",
        _sizes(4, 4, 256, 128, 0.1),
        {"batch_size": 16, "steps": 5000, "lr": 5e-4, "eval_every": 250},
    ),
    "small": Preset(
        "12.7 million and the embeddings",
        _sizes(4, 8, 512, 256, 0.1),
        {"batch_size": 16, "steps": 5000, "lr": 3e-4, "eval_every": 250},
    ),
    "base": Preset(
        "86 million and the embeddings",
        _sizes(12, 12, 768, 512, 0.1),
        {"batch_size": 8, "steps": 10000, "lr": 1e-4, "eval_every": 500},
    ),
}
