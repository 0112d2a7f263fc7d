"""bfloat16: the upper half of a float32.

In bf16 precision the operands of a multiplication are rounded to bfloat16, 8 bits of precision with
the range of float32; products and sums are float32, and so is every array (Kalamkar et al., "A
study of BFLOAT16 for deep learning training", 2019, section 3).
"""

import numpy as np


def round_bf16(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 numbers, ties to even, in the dtype of x (through float32)."""
    single = np.asarray(x, np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + (bits >> 16 & 1) + 0x7FFF) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(single), single, rounded.view(np.float32)).astype(x.dtype)


def operands(bf16: bool, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays as factors of a product: rounded to bfloat16 if `bf16`."""
    return tuple(round_bf16(a) for a in arrays) if bf16 else arrays
