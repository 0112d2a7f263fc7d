"""From the same weights, training steps give the bits that are recorded here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from byhand import GPT, GPTConfig, backend, optim
from byhand.runs.checkpoint import read

OLD = Path(__file__).parents[1] / "runs" / "data" / "format1"

# SHA-256 of the weights after ten steps. What the kernels compute depends on the instruction set
# and on nothing else of the machine. A kernel that computes otherwise, as a shorter polynomial
# does, needs new ones, and a line in CHANGELOG.md.
BITS = {
    "cpu_base": "503dd48cfaa9812ed4ec1ca6de1162573f763c66372e8f97c4355c50f01fcc6a",
    "cpu_avx2": "bcb1e0d08db6fcdfded65ba87f4805d53a7b7ccc6d9a63c852c2d36363041f3b",
    "cpu_avx512": "4dc1fd2a43a390be8befe38b65761f1a295617188874b2ed19b01f109121e893",
}


@pytest.mark.parametrize("name", [name for name in backend.cpu_modules() if name in BITS])
def test_ten_steps_without_dropout(name):
    saved = read(OLD / "last.safetensors")
    config = GPTConfig.from_dict(saved.state["config"]["model"]).replace(dropout=0.0)
    model = GPT(config, draw=False)
    model.load_state_dict(saved.group("model"))
    optimizer = optim.AdamW(model, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    rng = np.random.default_rng(0)
    with backend.use_cpu(name):
        for _ in range(10):
            ids, targets = rng.integers(0, config.vocabulary_size, (2, 3, config.context_size))
            model.zero_grad()
            model.loss(ids, targets)
            model.backward()
            optimizer.step(clip_norm=0.5)
    state = model.state_dict()
    digest = hashlib.sha256()
    for parameter in sorted(state, key=lambda path: path.removeprefix("decoder.")):
        digest.update(state[parameter].tobytes())
    assert digest.hexdigest() == BITS[name]
