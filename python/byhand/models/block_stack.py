"""Blocks one after the other, kept for the backward pass or computed again in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from byhand.backend import Array
from byhand.nn import Module
from byhand.nn.protocol import own_copy


class BlockStack(Module):
    """What has a sequence of ``blocks``, each (B, T, C) -> (B, T, C).

    With ``recompute`` a forward pass saves only the input of each block, and ``backward`` runs the
    block's forward pass again (Chen et al., "Training deep nets with sublinear memory cost", 2016).
    The results have the same bits, a step takes about a third longer, and only the activations of
    one block are in memory at a time.
    """

    blocks: Sequence[Any]
    recompute: bool

    def through_blocks(
        self, x: Array, caches: Sequence[Any] | None = None, **options: Array | None
    ) -> Array:
        """x after all blocks; caches: one for each; options: arrays that each block is given."""
        recompute = self.recompute and self._saving
        if recompute:
            options = {name: own_copy(a) for name, a in options.items()}
        for i, block in enumerate(self.blocks):
            if recompute:
                self.push((x, options, self.generator.count))
                with block.no_save():
                    x = block(x, **options)
            elif caches is not None:
                x = block(x, cache=caches[i], **options)
            else:
                x = block(x, **options)
        return x

    def back_through_blocks(self, d: Array) -> Array:
        """The backward pass of ``through_blocks``."""
        for block in reversed(self.blocks):
            if self.recompute:
                x, options, draws = self.pop()
                with self.generator.replay_from(draws):
                    block(x, **options)
            d = block.backward(d)
        return d
