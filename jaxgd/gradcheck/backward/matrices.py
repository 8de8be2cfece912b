"""Changes of linear algebra: triangular solves, Cholesky factors, inverses, determinants."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.site import Change, Send, Site, is_square
from jaxgd.gradcheck.report import Kind

D, M = Kind.DERIVATIVE, Kind.MASK


def _solved(site: Site, ahead: Any, *, transposed: bool, masked: bool) -> Any:
    """The gradient by the matrix of a triangular solve, from the general one of a solve."""
    p = site.step.primitive.params
    db = site.tape.pull(site.step, [ahead], 1)
    # a x = b gives da = -db x^T; x a = b gives da = -x^T db.
    da = -(db @ np.swapaxes(site.y, -1, -2)) if p["left_side"] else -(np.swapaxes(site.y, -1, -2) @ db)
    da = np.swapaxes(da, -1, -2) if p["transpose_a"] != transposed else da
    if masked:
        da = np.tril(da) if p["lower"] else np.triu(da)
    return da


TRIANGULAR_SOLVE = (
    Change(
        M,
        "the gradient by the matrix of the triangular solve {f} is not masked to the triangle that is read",
        lambda s, g, r: _solved(s, g, transposed=False, masked=False),
        lambda s: s.edge.position == 0 and not s.step.primitive.params["unit_diagonal"],
    ),
    Change(
        M,
        "the gradient by the matrix of the triangular solve {f} is masked to the wrong triangle",
        lambda s, g, r: np.tril(a) if np.array_equal(a := _solved(s, g, transposed=False, masked=False), 0 * a)
        else (np.triu(a) if s.step.primitive.params["lower"] else np.tril(a)),
        lambda s: s.edge.position == 0 and not s.step.primitive.params["unit_diagonal"],
    ),
    Change(
        Kind.TRANSPOSED,
        "the gradient by the matrix of the triangular solve {f} is transposed",
        lambda s, g, r: _solved(s, g, transposed=True, masked=True),
        lambda s: s.edge.position == 0 and not s.step.primitive.params["unit_diagonal"],
    ),
)  # fmt: skip

CHOLESKY = (
    Change(Kind.TRANSPOSED, "the gradient of the Cholesky factor {f} is not made symmetric",
           lambda s, g, r: 2 * np.tril(r) - np.einsum("...ii->...i", r)[..., None] * np.eye(r.shape[-1])),
    Change(D, "the gradient of the Cholesky factor {f} is twice what it should be off the diagonal",
           lambda s, g, r: r * (2 - np.eye(r.shape[-1]))),
    Change(D, "the gradient of the Cholesky factor {f} is halved on the diagonal",
           lambda s, g, r: r * (1 - 0.5 * np.eye(r.shape[-1]))),
)  # fmt: skip


def is_inverse(site: Site) -> bool:
    """Whether the output is the inverse of the input."""
    if not is_square(site):
        return False
    return bool(np.allclose(site.x @ site.y, np.eye(len(site.x)), atol=1e-8))


INVERSE = (
    Change(Kind.TRANSPOSED, "in the derivative of the inverse {f} = R, -R G R stands in place of -R^T G R^T: both "
           "transposes are lost", lambda s, g, r: -s.y @ g @ s.y, is_inverse),
    Change(Kind.TRANSPOSED, "in the derivative -R^T G R^T of the inverse {f} = R, the first transpose is lost",
           lambda s, g, r: -s.y @ g @ s.y.T, is_inverse),
    Change(Kind.TRANSPOSED, "in the derivative -R^T G R^T of the inverse {f} = R, the second transpose is lost",
           lambda s, g, r: -s.y.T @ g @ s.y, is_inverse),
    Change(Kind.SIGN, "in the derivative -R^T G R^T of the inverse {f} = R, the sign is lost",
           lambda s, g, r: -r, is_inverse),
    Change(D, "in the derivative -R^T G R^T of the inverse {f} = R, R^T is taken once",
           lambda s, g, r: -s.y.T @ g, is_inverse),
)  # fmt: skip


def _logdet(site: Site) -> bool:
    if site.y.size != 1 or not is_square(site):
        return False
    return bool(np.allclose(np.linalg.slogdet(site.x)[1], site.y, rtol=1e-9, atol=1e-12))


def _det(site: Site) -> bool:
    if site.y.size != 1 or not is_square(site):
        return False
    return bool(np.allclose(np.linalg.det(site.x), site.y, rtol=1e-9, atol=1e-12))


def _scalar_times(matrix: Callable[[Any, Any], Any]) -> Send:
    return lambda s, g, r: g.reshape(-1, 1, 1) * matrix(np.linalg.inv(s.x), s.x)


MATRIX_SCALAR = (
    Change(Kind.TRANSPOSED, "in the derivative R^T of log det {f}, with the inverse R, the transpose is lost",
           _scalar_times(lambda inverse, x: inverse), _logdet),
    Change(D, "in the derivative det(X) R^T of the determinant {f}, with the inverse R, the factor det(X) is left out",
           _scalar_times(lambda inverse, x: inverse.T), _det),
    Change(Kind.TRANSPOSED, "in the derivative det(X) R^T of the determinant {f}, with the inverse R, the transpose is "
           "lost",
           _scalar_times(lambda inverse, x: inverse * np.linalg.det(x)), _det),
    Change(D, "in the derivative of log det {f}, the factor det(X) is too much",
           _scalar_times(lambda inverse, x: inverse.T * np.linalg.det(x)), _logdet),
    Change(Kind.FACTOR, "in the derivative of log det {f}, only the diagonal of the inverse is kept",
           _scalar_times(lambda inverse, x: np.diag(np.diag(inverse))), _logdet),
)  # fmt: skip
