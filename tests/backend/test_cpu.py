"""Which CPU back ends are listed, and what happens where a module cannot be loaded."""

from __future__ import annotations

import pytest

from byhand import _host, backend
from byhand.backend import native

SENTENCE = "byhand._cpu_avx512 needs AVX-512, which this processor does not have"


@pytest.fixture
def unloadable(monkeypatch):
    """The best CPU module cannot be loaded -> its name."""
    name = list(backend.cpu_modules())[-1]
    load = native.load

    def fail_for(wanted: str):
        if wanted == name:
            raise ImportError(SENTENCE)
        return load(wanted)

    monkeypatch.setattr(native, "load", fail_for)
    monkeypatch.setattr(native.state, "cpu", None)
    monkeypatch.delenv("BYHAND_CPU", raising=False)
    native.kernels_of.cache_clear()
    yield name
    native.kernels_of.cache_clear()


def test_the_modules_listed_are_those_that_can_run() -> None:
    names = list(backend.cpu_modules())
    assert names
    assert set(names) <= set(_host.runnable_backends()) & set(backend.built_modules())


def test_a_module_that_cannot_be_loaded_is_not_listed(unloadable) -> None:
    assert unloadable in backend.built_modules()
    assert unloadable not in backend.cpu_modules()
    with (
        pytest.raises(ValueError, match=f"^{unloadable} is not one of "),
        backend.use_cpu(unloadable),
    ):
        pass


def test_the_choice_does_not_fall_back_silently(unloadable) -> None:
    with pytest.raises(ImportError, match=f"^{SENTENCE}$"):
        backend.cpu()
