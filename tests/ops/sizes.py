"""Sizes that the cases share."""

from hypothesis import strategies as st

# Around the widths at which another CUDA kernel is chosen, for packed and for odd rows.
WIDTHS = (64, 129, 384, 768, 1024, 1028, 2047, 2048, 4100, 8191, 8192, 8200, 16384, 16400, 50257)


def rows_of(columns: int) -> int:
    """How many rows of this width are enough."""
    return 3 if columns > 5000 else 5


# For hypothesis.
SMALL = st.integers(0, 70)
SOME = st.integers(1, 70)
FEW = st.integers(1, 5)
SHAPE = st.lists(SMALL, min_size=1, max_size=3)
