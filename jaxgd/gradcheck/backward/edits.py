"""EDITS: what people write in place of a local derivative, by the operation.

Each entry is a tuple of `Change`: what flows back along one edge of the backward pass in place of the right cotangent.
To add an operation, add its entry; `families` says which entries apply to an edge.
"""

from collections.abc import Iterator

from jaxgd.gradcheck.backward import arrays, elementwise, jacobians, matrices, norms, signals
from jaxgd.gradcheck.backward.arithmetic import UNARY
from jaxgd.gradcheck.backward.site import Change, Site

EDITS: dict[str, tuple[Change, ...]] = {
    "softmax": jacobians.SOFTMAX,
    "log_softmax": jacobians.LOG_SOFTMAX,
    "standardised": norms.STANDARDISED,
    "scaled to one": norms.SCALED_TO_ONE,
    "inverse": matrices.INVERSE,
    "expm": matrices.EXPONENTIAL,
    "solve": matrices.SOLVE,
    "svd": matrices.SINGULAR_VALUES,
    "matrix scalar": matrices.MATRIX_SCALAR,
    "elementwise": elementwise.ELEMENTWISE,
    "mask": elementwise.MASKS,
    "abs": elementwise.ABS,
    "mul": elementwise.MUL,
    "numerator": elementwise.NUMERATOR,
    "denominator": elementwise.DENOMINATOR,
    "dot_general": arrays.DOT,
    "reduce_sum": arrays.REDUCE_SUM,
    "reduce_max": arrays.REDUCE_MAX,
    "reduce_min": arrays.REDUCE_MAX,
    "broadcast_in_dim": arrays.BROADCAST,
    "gather": signals.GATHER,
    "conv_general_dilated": signals.CONVOLUTION,
    "pow": elementwise.POWER,
    "rem": elementwise.REMAINDER,
    "triangular_solve": matrices.TRIANGULAR_SOLVE,
    "cholesky": matrices.CHOLESKY,
    "cumsum": signals.CUMULATIVE,
    "padded": signals.PADDED,
    "transpose": signals.TRANSPOSE,
    "fft": signals.FOURIER,
    "complex": elementwise.COMPLEX,
    "passed on": jacobians.PASSED_ON,
    "jacobian": jacobians.JACOBIAN,
    "any": arrays.ANY,
    "scaled": arrays.SCALED,
    "output": arrays.OUTPUT,
    "affine output": arrays.AFFINE_OUTPUT,
}
"""What is tried at an edge, by the family of the edge; the likelier first."""

NORMS = {"standardised": norms.is_normalised("standardised"), "scaled to one": norms.is_normalised("scaled")}
RECOGNISED = {**{name: jacobians.is_like(name) for name in ("softmax", "log_softmax")}, **NORMS}
"""Functions of several operations that are recognised by their values."""

MASKING = frozenset({"max", "min", "select_n", "clamp"})
BROADCASTING = frozenset({"add", "sub", "mul", "div"})
AFFINE = frozenset({"dot_general", "add", "conv_general_dilated"})
PLAIN = frozenset({"neg", "copy", "copy_p", "stop_gradient", "sign", "floor", "ceil", "convert_element_type"})


def families(site: Site, elementwise: bool = False) -> Iterator[str]:
    """The entries of EDITS that apply to an edge.

    Args:
      site: the edge.
      elementwise: whether a group of operations is an elementwise function.

    Yields:
      Keys of EDITS.
    """
    name = site.step.name
    if site.edge.position == -1:
        yield "output"
        if name in AFFINE:
            yield "affine output"
        return
    if site.is_group:
        for family, holds in RECOGNISED.items():
            if site.x.shape == site.y.shape and holds(site):
                yield family
                if family not in NORMS:
                    return
        if matrices.is_solve(site):
            yield "solve"
        if not elementwise and len(site.step.ins) == 1 and name in UNARY and name not in PLAIN:
            yield "passed on"
        if signals.is_padded(site):
            yield "padded"
        elif site.x.shape != site.y.shape:
            yield "matrix scalar"
        else:
            yield "inverse" if matrices.is_inverse(site) else "elementwise" if elementwise else "jacobian"
        return
    alike = site.x.shape == site.y.shape
    if name in UNARY and name not in (*PLAIN, "abs") and alike:
        yield "elementwise"
    if name in MASKING and alike and site.x.dtype.kind == "f":
        yield "mask"
    if name == "div":
        yield "numerator" if site.edge.position == 0 else "denominator"
    elif name in EDITS and name != "any":
        yield name
    if name in BROADCASTING and not alike and site.x.ndim == site.y.ndim and site.x.dtype.kind == "f":
        yield "broadcast_in_dim"
    if site.x.dtype.kind == "c":
        yield "complex"
    yield "any"
    yield "scaled"
