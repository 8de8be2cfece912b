"""How a problem is minimised: the rule, the batches, the loop and the host's drive of it."""

from jaxgd.descent.fit import fit
from jaxgd.descent.loop import descend
from jaxgd.descent.rows import compress, sharded, tiled
from jaxgd.descent.rule import gradient_descent
from jaxgd.descent.state import History, Result, StopReason
from jaxgd.descent.sweep import sweep

__all__ = [
    "History",
    "Result",
    "StopReason",
    "compress",
    "descend",
    "fit",
    "gradient_descent",
    "sharded",
    "sweep",
    "tiled",
]
