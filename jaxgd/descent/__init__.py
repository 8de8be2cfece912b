"""Gradient descent: the update rule, the batches, the loop, and `fit`, which runs the loop from the host."""

from jaxgd.descent.curve import Curve, curve
from jaxgd.descent.descend import descend
from jaxgd.descent.explain import explain
from jaxgd.descent.fast.compressed import compress
from jaxgd.descent.fast.sharded import sharded
from jaxgd.descent.fast.tiled import tiled
from jaxgd.descent.fit import fit
from jaxgd.descent.held_out import HeldOut
from jaxgd.descent.result import History, Result, StopReason
from jaxgd.descent.rule import gradient_descent
from jaxgd.descent.sweep import sweep

__all__ = [
    "Curve",
    "HeldOut",
    "History",
    "Result",
    "StopReason",
    "compress",
    "curve",
    "descend",
    "explain",
    "fit",
    "gradient_descent",
    "sharded",
    "sweep",
    "tiled",
]
