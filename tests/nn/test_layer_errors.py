"""What a layer cannot take is named, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import nn


def test_a_full_cache_takes_no_more():
    cache = nn.KeyValueCache(1, 2, 1, 3, np.zeros(1, np.float32))
    one = np.ones((1, 1, 1, 3), np.float32)
    cache.extend(one, one)
    cache.extend(one, one)
    with pytest.raises(ValueError, match="1 positions after the first 2 exceed its capacity of 2"):
        cache.extend(one, one)
    assert cache.length == 2


def test_attention_names_what_it_cannot_take():
    x = np.zeros((1, 2, 4), np.float32)
    layer = nn.MultiHeadAttention(4, 2).build()
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, dim\), got \(2, 4\)"):
        layer(x[0])
    with pytest.raises(ValueError, match=r"memory must have shape \(B, S, dim\), got \(2, 4\)"):
        layer(x, x[0])
    with pytest.raises(ValueError, match="a cache is for self-attention"):
        layer(x, x, cache=nn.KeyValueCache(1, 9, 2, 2, x))
    with pytest.raises(ValueError, match="MultiHeadAttention: dropout must be"):
        nn.MultiHeadAttention(4, 2, dropout=1.5)


def test_a_layer_of_a_sequential_is_replaced_by_a_module_only():
    layers = nn.Sequential(nn.GELU(), nn.GELU())
    layers[-1] = nn.Dropout(0.0)
    assert isinstance(layers[1], nn.Dropout)
    with pytest.raises(TypeError, match="layer 0 must be a Module, got 'x'"):
        layers[0] = "x"
