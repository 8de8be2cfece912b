"""The kinds of work, each a function: a scale of `SCALES` -> rows."""

from experiments.benchmarks.first import first_call
from experiments.benchmarks.full_batch import full_batch, least_squares
from experiments.benchmarks.gradients import gradients
from experiments.benchmarks.growth import growth
from experiments.benchmarks.lanes import lanes, loops
from experiments.benchmarks.loop import chunks, tiny
from experiments.benchmarks.memory import memory
from experiments.benchmarks.reading import reading
from experiments.benchmarks.scaling import scaling
from experiments.benchmarks.start import start
from experiments.benchmarks.stochastic import stochastic
from experiments.benchmarks.theory import check, smooth

WORK = {
    "full_batch": full_batch,
    "least_squares": least_squares,
    "stochastic": stochastic,
    "lanes": lanes,
    "loops": loops,
    "tiny": tiny,
    "chunks": chunks,
    "gradients": gradients,
    "start": start,
    "first_call": first_call,
    "scaling": scaling,
    "growth": growth,
    "memory": memory,
    "check": check,
    "smooth": smooth,
    "reading": reading,
}
"""Every kind by its name."""
