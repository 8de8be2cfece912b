"""Changes of operations that read parts of an array: indexing, convolutions, Fourier transforms, running sums."""

import itertools
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import evaluate
from jaxgd.gradcheck.backward.site import Change, Send, Site
from jaxgd.gradcheck.finding import Kind

D, P = Kind.DERIVATIVE, Kind.PATH


def _overwritten(first: bool) -> Send:
    """What an assignment makes of rows that are read several times: one of them stays."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        indices = read_indices(site)
        if indices is None:
            return right
        out = np.zeros((len(ahead), site.x.size), ahead.dtype)
        order = slice(None, None, -1 if first else 1)
        out[:, indices.ravel()[order]] = ahead.reshape(len(ahead), -1)[:, order]
        return out.reshape(right.shape)

    return send


def read_indices(site: Site) -> Any:
    """For each entry of the output of a gather, the entry of the input that it reads; None if one lies outside."""
    numbers = np.arange(site.x.size, dtype=np.float64).reshape(site.x.shape)
    (read,) = evaluate(site.step.primitive, [numbers, *site.values[1:]])
    inside = np.isfinite(read).all() and np.all(read >= 0) and np.all(read < site.x.size)
    return read.astype(np.int64) if inside else None


def _repeats(site: Site) -> bool:
    indices = read_indices(site)
    return indices is not None and len(np.unique(indices)) < indices.size


GATHER = (
    Change(Kind.NOT_SUMMED, "in the derivative of the indexing {f}, entries of {x} that are read several times are "
           "overwritten, not added up: only the last one counts", _overwritten(False), _repeats),
    Change(Kind.NOT_SUMMED, "in the derivative of the indexing {f}, entries of {x} that are read several times are "
           "overwritten, not added up: only the first one counts", _overwritten(True), _repeats),
)  # fmt: skip


def _flipped_kernel(site: Site, ahead: Any, right: Any) -> Any:
    """The cotangent of the input of a convolution with the kernel reversed along its spatial axes."""
    del right
    values = site.values
    axes = tuple(site.step.primitive.params["dimension_numbers"].rhs_spec[2:])
    values[1] = np.flip(values[1], axes)
    return site.back_with(values, ahead)


def _flipped_result(site: Site, ahead: Any, right: Any) -> Any:
    del ahead
    return np.flip(right, tuple(1 + a for a in site.step.primitive.params["dimension_numbers"].rhs_spec[2:]))


CONVOLUTION = (
    Change(Kind.ORDER, "in the derivative of the convolution {f} by {x}, the kernel is not flipped", _flipped_kernel,
           lambda s: s.edge.position == 0),
    Change(Kind.ORDER, "the gradient of the convolution {f} by its kernel {x} is flipped", _flipped_result,
           lambda s: s.edge.position == 1),
)  # fmt: skip


def _inner_bins(factor: float) -> Send:
    """The gradient of a Fourier transform of real numbers with its inner bins, which stand for two each, scaled."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        bins = (site.y if site.y.dtype.kind == "c" else site.x).shape[-1]
        weights = np.full(bins, factor)
        weights[0] = 1.0
        if site.step.primitive.params["fft_lengths"][-1] % 2 == 0:
            weights[-1] = 1.0
        return site.back(ahead * weights) if site.y.dtype.kind == "c" else right * weights

    return send


def _is_real_transform(site: Site) -> bool:
    return site.x.dtype.kind != site.y.dtype.kind


FOURIER = (
    Change(D, "in the derivative of the Fourier transform {f}, the inner frequencies, which stand for two each, count "
           "twice", _inner_bins(2.0), _is_real_transform),
    Change(D, "in the derivative of the Fourier transform {f}, the inner frequencies, which stand for two each, count "
           "half", _inner_bins(0.5), _is_real_transform),
)  # fmt: skip


def _inside(site: Site) -> tuple[slice, ...] | None:
    """Where in the output of jnp.pad its input stands; None for another function."""
    padded = any(
        call.name in ("_pad", "pad") and site.step.outs[0] in call.outs and site.edge.target == call.ins[0]
        for call in site.tape.calls
    )
    if not padded or site.x.ndim != site.y.ndim:
        return None
    room = (range(whole - part + 1) for part, whole in zip(site.x.shape, site.y.shape, strict=True))
    places = (
        tuple(slice(start, start + length) for start, length in zip(starts, site.x.shape, strict=True))
        for starts in itertools.product(*room)
    )
    return next((place for place in places if np.array_equal(site.y[place], site.x)), None)


def is_padded(site: Site) -> bool:
    """Whether the output is the input with a border of its own entries."""
    return site.is_group and site.x.size < site.y.size and _inside(site) is not None


PADDED = (
    Change(P, "the border that {f} makes of entries of {x} sends nothing back to them",
           lambda s, g, r: g[(slice(None), *(_inside(s) or ()))]),
)  # fmt: skip

TRANSPOSE = (
    Change(Kind.TRANSPOSED, "the axes that {f} exchanges are not exchanged back: what arrives is only reshaped",
           lambda s, g, r: g.reshape(r.shape)),
)  # fmt: skip

CUMULATIVE = (
    Change(Kind.ORDER, "the gradient of the cumulative sum {f} is summed forwards, not backwards",
           lambda s, g, r: np.flip(np.cumsum(np.flip(g, s.step.primitive.params["axis"] + 1),
                                             s.step.primitive.params["axis"] + 1), s.step.primitive.params["axis"] + 1)
           if s.step.primitive.params["reverse"] else np.cumsum(g, s.step.primitive.params["axis"] + 1)),
    Change(P, "the gradient of the cumulative sum {f} is not summed", lambda s, g, r: g),
)  # fmt: skip
