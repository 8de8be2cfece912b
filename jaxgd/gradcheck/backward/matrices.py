"""Changes of linear algebra: triangular solves, Cholesky factors, inverses, determinants."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxgd.gradcheck.backward.arithmetic import solve_triangular
from jaxgd.gradcheck.backward.site import Change, Send, Site, is_square
from jaxgd.gradcheck.finding import Kind

D, M = Kind.DERIVATIVE, Kind.MASK


def _by_matrix(site: Site, db: Any, *, transposed: bool = False, triangle: str = "read") -> Any:
    """The gradient by the matrix a of a triangular solve: -db x^T for a x = b, and -x^T db for x a = b."""
    p = site.step.primitive.params
    x = np.swapaxes(site.y, -1, -2)
    da = -(db @ x) if p["left_side"] else -(x @ db)
    da = np.swapaxes(da, -1, -2) if p["transpose_a"] != transposed else da
    if triangle == "all":
        return da
    return np.tril(da) if p["lower"] == (triangle == "read") else np.triu(da)


def _right_by_b(site: Site, ahead: Any) -> Any:
    return site.tape.pull(site.step, [ahead], 1)


def _with_the_matrix_itself(site: Site, ahead: Any, right: Any) -> Any:
    """The backward solve without the transpose; by the matrix, what follows from it."""
    del right
    db = solve_triangular(site.step.primitive.params, site.values[0], ahead)
    return db if site.edge.position == 1 else _by_matrix(site, db)


def _of_matrix(site: Site) -> bool:
    return site.edge.position == 0 and not site.step.primitive.params["unit_diagonal"]


TRIANGULAR_SOLVE = (
    Change(M, "the gradient by the matrix of the triangular solve {f} is not masked to the triangle that is read",
           lambda s, g, r: _by_matrix(s, _right_by_b(s, g), triangle="all"), _of_matrix),
    Change(M, "the gradient by the matrix of the triangular solve {f} is masked to the wrong triangle",
           lambda s, g, r: _by_matrix(s, _right_by_b(s, g), triangle="other"), _of_matrix),
    Change(Kind.TRANSPOSED, "the gradient by the matrix of the triangular solve {f} is transposed",
           lambda s, g, r: _by_matrix(s, _right_by_b(s, g), transposed=True), _of_matrix),
    Change(Kind.TRANSPOSED, "the backward solve of the triangular solve {f} is with the matrix, not with its transpose",
           _with_the_matrix_itself),
)  # fmt: skip


def _factorised(middle: Callable[[Any], Any]) -> Send:
    """The gradient of a Cholesky factor L, L^-T M L^-1, with another middle factor M of L^T G."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        del right
        lower = np.tril(site.y)  # above the diagonal the primitive leaves whatever was there
        inverse = np.linalg.inv(lower)
        inner = middle(np.swapaxes(lower, -1, -2) @ ahead)
        return np.swapaxes(inverse, -1, -2) @ inner @ inverse

    return send


CHOLESKY = (
    Change(D, "in the derivative of the Cholesky factor {f} = L, the diagonal of L^T G is not halved",
           _factorised(np.tril)),
    Change(D, "in the derivative of the Cholesky factor {f} = L, L^T G is not cut to its lower triangle",
           _factorised(lambda inner: inner)),
    Change(D, "in the derivative of the Cholesky factor {f} = L, L^T G is cut to its triangle without the diagonal",
           _factorised(lambda inner: np.tril(inner, -1))),
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


EXPONENTIAL = (
    Change(D, "the derivative of the matrix exponential {f} is taken as if A and dA commuted: exp(A)^T g stands in its "
           "place", lambda s, g, r: s.y.T @ g),
    Change(D, "the derivative of the matrix exponential {f} is taken as if A and dA commuted: g exp(A)^T stands in its "
           "place", lambda s, g, r: g @ s.y.T),
    Change(D, "the matrix exponential {f} is differentiated as if exp were taken entry by entry",
           lambda s, g, r: g * np.exp(s.x)),
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


def _by_singular_vectors(form: Callable[[Any, Any, Any], Any]) -> Send:
    def send(site: Site, ahead: Any, right: Any) -> Any:
        del right
        left, _, right_transposed = np.linalg.svd(site.x, full_matrices=False)
        return np.stack([form(left, np.diag(g), right_transposed) for g in ahead])

    return send


SINGULAR_VALUES = (
    Change(Kind.TRANSPOSED, "in the derivative U diag(g) V^T of the singular values {f}, V stands in place of V^T",
           _by_singular_vectors(lambda u, g, vt: u @ g @ vt.T), lambda s: is_square(s) and s.y.ndim == 1),
    Change(Kind.TRANSPOSED, "the derivative U diag(g) V^T of the singular values {f} is transposed",
           _by_singular_vectors(lambda u, g, vt: (u @ g @ vt).T), lambda s: is_square(s) and s.y.ndim == 1),
)  # fmt: skip


def _solved(site: Site) -> tuple[Any, Any] | None:
    """Matrix and right-hand side if the output of a group solves a system of linear equations, else None."""
    for call in site.tape.calls:
        if site.step.outs[0] in call.outs and site.edge.target in call.ins:
            values = [site.tape.values[number] for number in call.ins]
            for a in values:
                for b in values:
                    square = a.ndim == 2 and a.shape[0] == a.shape[1] == len(site.y) and a.dtype.kind == "f"
                    if square and b is not a and b.shape == site.y.shape and np.allclose(a @ site.y, b, atol=1e-9):
                        return a, b
    return None


def is_solve(site: Site) -> bool:
    """Whether the output solves a system of linear equations with the input as its matrix or right-hand side."""
    return site.is_group and site.y.ndim in (1, 2) and site.y.size > 1 and _solved(site) is not None


def _system(form: Callable[[Any, Any, Any], Any]) -> Send:
    """A change of a solve from `form(matrix, solution, cotangent)`, for each row of the cotangent."""

    def send(site: Site, ahead: Any, right: Any) -> Any:
        solved = _solved(site)
        return right if solved is None else np.stack([form(solved[0], site.y, g) for g in ahead])

    return send


def _by_the_matrix(db: Any, x: Any) -> Any:
    return -np.outer(db, x) if x.ndim == 1 else -db @ x.T


def _is_matrix(site: Site) -> bool:
    solved = _solved(site)
    return solved is not None and site.x.shape == solved[0].shape and np.array_equal(site.x, solved[0])


def _is_right_side(site: Site) -> bool:
    solved = _solved(site)
    return solved is not None and site.x.shape == solved[1].shape and np.array_equal(site.x, solved[1])


SOLVE = (
    Change(Kind.TRANSPOSED, "in the backward pass of the solve {f}, x = A^-1 b, by b, the solve is with A, not with "
           "its transpose", _system(lambda a, x, g: np.linalg.solve(a, g)), _is_right_side),
    Change(D, "in the backward pass of the solve {f}, x = A^-1 b, by b, the solve with the transpose of A is left out",
           _system(lambda a, x, g: g), _is_right_side),
    Change(D, "in the backward pass of the solve {f}, x = A^-1 b, by b, a product with the transpose of A stands in "
           "place of the solve", _system(lambda a, x, g: a.T @ g), _is_right_side),
    Change(Kind.SIGN, "in the derivative -A^-T g x^T by A of the solve {f}, x = A^-1 b, the sign is lost",
           _system(lambda a, x, g: -_by_the_matrix(np.linalg.solve(a.T, g), x)), _is_matrix),
    Change(Kind.TRANSPOSED, "the derivative -A^-T g x^T by A of the solve {f}, x = A^-1 b, is transposed",
           _system(lambda a, x, g: _by_the_matrix(np.linalg.solve(a.T, g), x).T), _is_matrix),
    Change(Kind.TRANSPOSED, "in the derivative -A^-T g x^T by A of the solve {f}, x = A^-1 b, the inverse of A stands "
           "in place of that of its transpose",
           _system(lambda a, x, g: _by_the_matrix(np.linalg.solve(a, g), x)), _is_matrix),
    Change(D, "in the derivative -A^-T g x^T by A of the solve {f}, x = A^-1 b, the solve is left out",
           _system(lambda a, x, g: _by_the_matrix(g, x)), _is_matrix),
)  # fmt: skip
