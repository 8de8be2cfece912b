"""Each phrase for a place in an array, on masks."""

import numpy as np
import pytest

from jaxgd.gradcheck.where import where


def mask(shape, *indices):
    made = np.zeros(shape, bool)
    for index in indices:
        made[index] = True
    return made


every = slice(None)
PHRASES = [
    (np.array(True), "its one entry"),
    (np.ones((2, 3), bool), "all 6 entries"),
    (mask((4, 3), (3, 1)), "entry [3, 1]"),
    (mask((4, 3), (2, every)), "row 2"),
    (mask((4, 3), (3, every)), "row 3"),
    (mask((4, 3), (0, every), (2, every)), "rows 0, 2"),
    (mask((9, 2), *[(i, every) for i in range(8)]), "rows 0, 1, 2, 3, 4, 5 and 2 more"),
    (mask((9, 2), *[(i, every) for i in range(7)]), "rows 0, 1, 2, 3, 4, 5 and 1 more"),
    (mask((9, 2), *[(i, every) for i in range(6)]), "rows 0, 1, 2, 3, 4, 5"),
    (mask((4, 3), (every, 0)), "column 0"),
    (mask((4, 3), (every, 1), (every, 2)), "columns 1, 2"),
    (np.eye(3, dtype=bool), "the diagonal"),
    (~np.eye(3, dtype=bool), "all entries off the diagonal"),
    (np.tril(np.ones((3, 3), bool), -1), "all entries below the diagonal"),
    (np.triu(np.ones((3, 3), bool), 1), "all entries above the diagonal"),
    (np.tril(np.ones((3, 4), bool), -1), "all entries below the diagonal"),
    (mask((5, 5), (slice(1, 3), slice(2, 5))), "the block [1:3, 2:5]"),
    (mask((6,), slice(0, 2)), "the block [0:2]"),
    (mask((6,), 1, 4), "entries [1, 4]"),
    (mask((20,), *range(0, 16, 2)), "entries [0, 2, 4, 6, 8, 10, 12, 14]"),
    (mask((20,), *range(0, 18, 2)), "9 of 20 entries; the first is [0]"),
    (np.array([[0, 0], [2, 2]]), "row 1"),
    (mask((4, 4), (0, 1), (2, 3), (3, 0)), "3 of 16 entries; the first is [0, 1]"),
    (mask((2, 3, 2), (0, 1, every)), "the block [0:1, 1:2, 0:2]"),
    (mask((20,), *range(0, 20, 2)), "10 of 20 entries; the first is [0]"),
]


@pytest.mark.parametrize(("made", "phrase"), PHRASES, ids=[phrase for _, phrase in PHRASES])
def test_a_mask_in_words(made, phrase):
    assert where(made) == phrase
