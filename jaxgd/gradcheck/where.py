"""Entries of an array, in words."""

from typing import Any

import numpy as np


def where(mask: Any) -> str:
    """Where a mask is true.

    Args:
      mask: any shape, bool, true somewhere.

    Returns:
      "all 300 entries", "entry [3, 1]", "row 2", "column 0", "the diagonal", "the block [0:2, 4:8]", and the like.
    """
    mask = np.asarray(mask, bool)
    if mask.ndim == 0:
        return "its one entry"
    count = int(mask.sum())
    if count == mask.size:
        return f"all {count} entries"
    indices = np.argwhere(mask)
    if count == 1:
        return f"entry {indices[0].tolist()}"
    low, high = indices.min(0), indices.max(0) + 1
    whole_box = count == int(np.prod(high - low))
    if mask.ndim == 2:
        diagonal, whole = np.eye(len(mask), dtype=bool), np.ones_like(mask)
        patterns = {
            "the diagonal": diagonal,
            "all entries off the diagonal": ~diagonal,
            "all entries below the diagonal": np.tril(whole, -1),
            "all entries above the diagonal": np.triu(whole, 1),
        }
        for words, pattern in patterns.items():
            if np.array_equal(mask, pattern):
                return words
        for axis, words in ((0, "row"), (1, "column")):
            lines = mask.all(1 - axis)
            if np.array_equal(mask, np.broadcast_to(np.expand_dims(lines, 1 - axis), mask.shape)):
                return _listed(words, np.flatnonzero(lines))
    if mask.ndim == 1 and not whole_box and count <= 8:
        return f"entries {indices[:, 0].tolist()}"
    if whole_box:
        return f"the block [{', '.join(f'{a}:{b}' for a, b in zip(low, high, strict=True))}]"
    first = f"; the first is {indices[0].tolist()}"
    return f"{count} of {mask.size} entries{first}"


def _listed(word: str, numbers: Any) -> str:
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    shown = ", ".join(str(n) for n in numbers[:6])
    return f"{word}s {shown}" + (f" and {len(numbers) - 6} more" if len(numbers) > 6 else "")
