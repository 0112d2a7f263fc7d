"""The feed-forward layer of a transformer block."""

from __future__ import annotations

from typing import Any, Literal

from byhand.backend import Array
from byhand.nn import mode
from byhand.nn.activation import function_named
from byhand.nn.dropout import Dropout
from byhand.nn.init import Init
from byhand.nn.linear import Linear
from byhand.nn.module import Module
from byhand.nn.protocol import Again, input_error, require_sizes, taken_again
from byhand.ops import activation as activations
from byhand.ops import gelu_ffn

# The functions that run as one kernel with the linear layers -> GELU's form.
FUSED: dict[str, Literal["none", "tanh"]] = {"gelu": "none", "gelu_tanh": "tanh"}


class FeedForward(Module):
    """down(activation(up(x))) (+ add).

    Shapes: x, y, add (..., dim); ``up`` gives (..., hidden). Vaswani et al., 2017, equation 2.

    As long as both linear layers are plain ``Linear`` layers and the activation is a GELU, they run
    as one kernel. A replacement of one of them, such as an adapter, is called like any layer.

    Args:
        activation: "gelu", its tanh approximation "gelu_new" (also "gelu_pytorch_tanh"), or any
            other function of ``ops.activation``, such as "relu", with the defaults of its options.
            ValueError, which names the nearest one, for another name.
        dropout: the probability of zeroing an element of the result, before ``add``.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
        *,
        up_init: Init | None = None,
        down_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        function_named("FeedForward", activation)
        require_sizes("FeedForward", dim=dim, hidden=hidden)
        self.activation = activation
        self.up = Linear(dim, hidden, bias, weight_init=up_init, bias_init=bias_init)
        self.down = Linear(hidden, dim, bias, weight_init=down_init, bias_init=bias_init)
        self.dropout = Dropout(dropout)

    def forward(self, x: Array, add: Array | None = None, again: Again = None) -> Array:
        up, down, dropped = self.up, self.down, self.dropout.active
        function = function_named("FeedForward", self.activation)
        residual = None if dropped else add
        if self._fused:
            weight = up.weight.compute_value
            try:
                y, kept = gelu_ffn.forward(
                    x,
                    weight,
                    up.bias and up.bias.compute_value,
                    down.weight.compute_value,
                    down.bias and down.bias.compute_value,
                    residual,
                    FUSED[function],
                    self._bf16,
                )
            except (TypeError, ValueError) as error:
                raise input_error(error, "FeedForward", "x", x, weight.shape[1], weight) from None
            self.push((True, dropped, kept if again is None else (again, *kept[1:])))
        else:
            h, saved = activations.forward(up(x, again=again), function)
            self.push((False, dropped, saved))
            y = down(h, residual)
        return self.dropout(y, add) if dropped else y

    @property
    def _fused(self) -> bool:
        """Whether both linear layers and the activation run as one kernel."""
        plain = type(self.up) is Linear and type(self.down) is Linear
        fused = plain and function_named("FeedForward", self.activation) in FUSED
        return fused and mode.packed(self.up.weight) is None

    def flops(self, x: tuple[int, ...], *shapes: Any) -> tuple[int, int]:
        if not self._fused:
            return 0, 0
        up, down = self.up.flops(x), self.down.flops((*x[:-1], self.up.weight.shape[0]))
        return up[0] + down[0], up[1] + down[1]

    def backward(self, dy: Array) -> Array:
        up, down = self.up, self.down
        fused, dropped, saved = self.pop()
        d = self.dropout.backward(dy) if dropped else dy
        if not fused:
            return up.backward(activations.backward(down.backward(d), saved))
        return gelu_ffn.backward(
            d,
            taken_again(saved),
            up.weight.grad,
            up.bias and up.bias.grad,
            down.weight.grad,
            down.bias and down.bias.grad,
        )
