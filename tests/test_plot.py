"""plot.attention: the heat maps, their labels, and the file."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import plot

pytest.importorskip("matplotlib")

TOKENS = ["$To", " be", "$", "\n"]


def weights(*shape: int) -> np.ndarray:
    e = np.exp(np.random.default_rng(0).standard_normal(shape))
    return e / e.sum(-1, keepdims=True)


def test_a_heat_map_for_each_layer_and_head(tmp_path):
    w = weights(2, 3, 4, 4)
    path = tmp_path / "attention.png"
    figure = plot.attention(w, TOKENS, path=path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    maps = [axes for axes in figure.axes if axes.images and axes.get_xlabel() == "key"]
    assert len(maps) == 6
    for n, axes in enumerate(maps):
        assert np.array_equal(axes.images[0].get_array(), w[n // 3, n % 3])
        assert axes.images[0].get_clim() == (0, 1)
        assert axes.get_title() == f"layer {n // 3 + 1}, head {n % 3 + 1}"
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [label.get_text() for label in labels] == ["$To", " be", "$", "\\n"]


def test_queries_and_keys_may_have_tokens_of_their_own():
    (axes, _) = plot.attention(weights(2, 3), ["a", "b"], keys=["x", "y", "z"]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_without_tokens_the_axes_have_positions():
    axes = plot.attention([weights(1, 20, 40)]).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()][:3] == ["0", "5", "10"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((weights(4),), r"weights must have shape \(T, S\), .* got \(4,\)$"),
        ((np.zeros((0, 3)),), r"an element, got \(0, 3\)$"),
        (([weights(2, 3, 3), weights(3, 3, 3)],), "the layers differ in their shapes"),
        ((weights(4, 4), TOKENS[:3]), "tokens must be 4 tokens, got 3$"),
        ((weights(4, 5), TOKENS, TOKENS), "keys must be 5 tokens, got 4$"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=f"^plot.attention: .*{sentence}"):
        plot.attention(*arguments)
