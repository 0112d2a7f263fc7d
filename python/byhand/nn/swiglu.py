"""The gated feed-forward layer of a transformer block."""

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
from byhand.ops import swiglu_ffn

# The functions that run as one kernel with the linear layers.
FUSED: dict[str, Literal["silu", "gelu", "gelu_tanh"]] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
}


class SwiGLU(Module):
    """down(activation(gate(x)) * up(x)) (+ add).

    Shapes: x, y, add (..., dim); ``gate`` and ``up`` give (..., hidden). Shazeer, "GLU variants
    improve transformer", 2020, equation 6; with activation="gelu_new" it is the GEGLU of T5 1.1.

    As long as the three linear layers are plain ``Linear`` layers and the activation is SiLU or a
    GELU, they run as one kernel. A replacement of one of them, such as an adapter, is called like
    any layer.

    Args:
        bias: whether the three linear layers have biases.
        activation: "silu", "gelu", its tanh approximation "gelu_new" (also "gelu_pytorch_tanh"), or
            any other function of ``ops.activation``, such as "relu", with the defaults of its
            options. ValueError, which names the nearest one, for another name.
        dropout: the probability of zeroing an element of the result, before ``add``.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        bias: bool = False,
        activation: str = "silu",
        dropout: float = 0.0,
        *,
        up_init: Init | None = None,
        down_init: Init | None = None,
        bias_init: Init | None = None,
    ):
        function_named("SwiGLU", activation)
        require_sizes("SwiGLU", dim=dim, hidden=hidden)
        self.activation = activation
        self.gate = Linear(dim, hidden, bias, weight_init=up_init, bias_init=bias_init)
        self.up = Linear(dim, hidden, bias, weight_init=up_init, bias_init=bias_init)
        self.down = Linear(hidden, dim, bias, weight_init=down_init, bias_init=bias_init)
        self.dropout = Dropout(dropout)

    def forward(self, x: Array, add: Array | None = None, again: Again = None) -> Array:
        gate, up, down, dropped = self.gate, self.up, self.down, self.dropout.active
        function = function_named("SwiGLU", self.activation)
        residual = None if dropped else add
        if self._fused:
            weight = gate.weight.compute_value
            try:
                y, kept = swiglu_ffn.forward(
                    x,
                    weight,
                    gate.bias and gate.bias.compute_value,
                    up.weight.compute_value,
                    up.bias and up.bias.compute_value,
                    down.weight.compute_value,
                    down.bias and down.bias.compute_value,
                    residual,
                    FUSED[function],
                    self._bf16,
                )
            except (TypeError, ValueError) as error:
                raise input_error(error, "SwiGLU", "x", x, weight.shape[1], weight) from None
            self.push((True, dropped, kept if again is None else (again, *kept[1:])))
        else:
            value, saved = activations.forward(gate(x, again=again), function)
            factor = up(x, again=again)
            self.push((False, dropped, (saved, value, factor)))
            y = down(value * factor, residual)
        return self.dropout(y, add) if dropped else y

    @property
    def _fused(self) -> bool:
        """Whether the linear layers and the activation run as one kernel."""
        plain = all(type(part) is Linear for part in (self.gate, self.up, self.down))
        fused = plain and function_named("SwiGLU", self.activation) in FUSED
        return fused and mode.packed(self.up.weight) is None

    def flops(self, x: tuple[int, ...], *shapes: Any) -> tuple[int, int]:
        if not self._fused:
            return 0, 0
        hidden = (*x[:-1], self.up.weight.shape[0])
        parts = self.gate.flops(x), self.up.flops(x), self.down.flops(hidden)
        forward, backward = zip(*parts, strict=True)
        return sum(forward), sum(backward)

    def backward(self, dy: Array) -> Array:
        gate, up, down = self.gate, self.up, self.down
        fused, dropped, saved = self.pop()
        d = self.dropout.backward(dy) if dropped else dy
        if not fused:
            of_function, value, factor = saved
            dh = down.backward(d)
            dx = up.backward(dh * value)
            return dx + gate.backward(activations.backward(dh * factor, of_function))
        return swiglu_ffn.backward(
            d,
            taken_again(saved),
            gate.weight.grad,
            gate.bias and gate.bias.grad,
            up.weight.grad,
            up.bias and up.bias.grad,
            down.weight.grad,
            down.bias and down.bias.grad,
        )
