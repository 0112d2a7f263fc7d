"""Each planted bug of tests/guide turns its test red."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guide import (  # noqa: F401  (they list their tests)
    test_c_models,
    test_c_text,
    test_d_attention,
    test_d_data,
    test_d_model,
    test_d_training,
    test_e_choosing,
    test_e_models,
)
from tests.guide.planted import PLANTED, Planted


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: f"{case.row}: {case.bug}")
def test_the_planted_bug_is_noticed(case: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    case.is_noticed(monkeypatch, tmp_path)


def test_a_bug_that_is_not_noticed_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The test above is only as good as this."""
    blind = Planted("D00", lambda: None, "any", Planted, "row", lambda right: right, {})
    with monkeypatch.context() as patch:
        patch.setattr(Planted, "row", "", raising=False)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            blind.is_noticed(patch, tmp_path)
