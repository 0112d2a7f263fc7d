"""From the same weights, training steps give the same bits as in byhand 0.1."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from byhand import GPT, GPTConfig, backend, optim
from byhand.runs.checkpoint import read

OLD = Path(__file__).parents[1] / "runs" / "data" / "format1"

# SHA-256 of the weights after ten steps, recorded with byhand 0.1 on each back end. What the
# kernels compute depends on the instruction set and on nothing else of the machine.
BITS = {
    "cpu_base": "c1339c1180f726a3f4b9cf0d06ad1f63798f5146b3f999a6a849f744cd486967",
    "cpu_avx2": "3ca457eb4ed031008aa0ab5650ab284736b97ba615e3d646b54bb32e5cc86149",
    "cpu_avx512": "b8a8442df67a4a3463e96c7499bf458c01e8443387adda67f873f3577fc99011",
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
