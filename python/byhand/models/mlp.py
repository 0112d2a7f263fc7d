"""MLP: a multi-layer perceptron, linear layers with an activation function between them.

    x -> (linear -> activation -> dropout) for each hidden layer -> linear -> logits

Rumelhart, Hinton & Williams, 1986. The default activation is the GELU (Hendrycks & Gimpel, 2016).
"""

from __future__ import annotations

from itertools import pairwise

from byhand.backend import Array
from byhand.config import Config as ConfigBase
from byhand.config import choice, config, positive_int, positive_ints, probability, require_config
from byhand.models.preset import Preset
from byhand.nn import Dropout, Linear, Module, Sequential, activation
from byhand.nn.protocol import own_copy


@config
class MLPConfig(ConfigBase):
    """The sizes of an MLP.

    Attributes:
        num_features: numbers in an example.
        num_classes: numbers in the output; for regression it may be given as num_outputs.
        hidden_sizes: widths of the hidden layers.
        dropout: probability of zeroing, after each hidden layer.
        activation: "gelu", "relu", "tanh" or another name of ``nn.activation.NAMES``.
    """

    num_features: int = positive_int(help="numbers in an example")
    num_classes: int = positive_int(help="numbers in the output", aliases=("num_outputs",))
    hidden_sizes: tuple[int, ...] = positive_ints((100,), help="widths of the hidden layers")
    dropout: float = probability(0.0, help="part of the activations zeroed while training")
    activation: str = choice(
        tuple(activation.NAMES), "gelu", help="function after each hidden layer", absent="gelu"
    )


class MLP(Module):
    """An MLP with parameters drawn from ``seed``: x (B, num_features) -> (B, num_classes).

    Raises ValueError for an x of any other shape.
    """

    def __init__(
        self, config: MLPConfig, seed: int = 0, precision: str = "float32", draw: bool = True
    ):
        self._config = require_config("MLP", config, MLPConfig)
        sizes = (config.num_features, *config.hidden_sizes)
        layers: list[Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [
                Linear(inputs, outputs),
                activation.layer_named("MLP", config.activation),
                Dropout(config.dropout),
            ]
        self.layers = Sequential(*layers, Linear(sizes[-1], config.num_classes))
        self.precision = precision
        self.build(seed, draw=draw)

    @property
    def config(self) -> MLPConfig:
        """The sizes that the model was made with; a model of other sizes is a new model."""
        return self._config

    def forward(self, x: Array) -> Array:
        return self.layers(own_copy(x) if self._saving else x)

    def _input_shape(self, batch: int) -> tuple[int, ...]:
        return batch, self.config.num_features

    def backward(self, dy: Array) -> Array:
        return self.layers.backward(dy)


Config, Model = MLPConfig, MLP

PRESETS = {
    "small": Preset(
        "one hidden layer of 100",
        {"hidden_sizes": (100,)},
        {"batch_size": 32, "steps": 1000, "lr": 1e-3, "eval_every": 100},
    ),
}
