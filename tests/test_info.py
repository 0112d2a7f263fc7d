"""What `byhand.info` reports."""

from __future__ import annotations

import pytest

import byhand
from byhand import backend


def test_info_names_what_is_used():
    info = byhand.info()
    assert info["version"] == byhand.__version__
    assert info["cpu_backend"] == backend.cpu().name
    assert info["cpu_backend"] in info["backends_built"]
    assert info["threads"] == byhand.get_num_threads()
    assert info["cuda"] == (backend.cuda_reason() or "available")


def test_without_cuda_every_query_gives_the_reason():
    reason = backend.cuda_reason()
    if not reason:
        pytest.skip("this machine has CUDA")
    with pytest.raises(backend.CudaUnavailable) as error:
        backend.cuda()
    assert str(error.value) == reason
    model = byhand.GPT(byhand.GPTConfig(5, 4, 6, 2, 1))
    with pytest.raises(backend.CudaUnavailable):
        model.to(device="cuda")
    assert model.loss is not None
    model.to(device="cpu")


def test_the_best_back_end_is_chosen():
    assert backend.cpu().name == list(backend.cpu_modules())[-1]
