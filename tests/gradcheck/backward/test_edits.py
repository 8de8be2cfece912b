"""Every entry of EDITS on a tiny function: the edited gradient against the formula that the words describe."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import blocks_of
from scipy.linalg import expm
from scipy.special import softmax

from jaxgd.gradcheck.backward import elementwise
from jaxgd.gradcheck.backward.candidates import candidates
from jaxgd.gradcheck.backward.edits import EDITS
from jaxgd.gradcheck.backward.reading import read
from jaxgd.gradcheck.backward.record import record
from jaxgd.gradcheck.backward.sweep import backward

RNG = np.random.default_rng(0)
x, c, w = RNG.normal(size=5), RNG.normal(size=5), RNG.normal(size=5)
positive = np.abs(x) + 0.5
A, B, W = RNG.normal(size=(3, 3)) + 2 * np.eye(3), RNG.normal(size=(3, 3)), RNG.normal(size=(3, 3))
t = np.tanh(x)
d = 1 - t**2

p = np.exp(x) / np.exp(x).sum()
R = np.linalg.inv(A)
det = np.linalg.det(A)
ties = np.array([[1.0, 1.0, 0.0], [2.0, 0.0, 2.0]])
v2, W34, x31 = RNG.normal(size=2), RNG.normal(size=(3, 4)), RNG.normal(size=(3, 1))
ids = np.array([0, 1, 0, 2])
v4, x3, k3, v3, v6 = (RNG.normal(size=n) for n in (4, 3, 3, 3, 6))
norm = np.sqrt(np.sum(x**2))
s = 1 / (1 + np.exp(-(A @ x3)))
L = np.tril(A)
X = np.linalg.solve(L, B)
dB, wrong_dB = np.linalg.solve(L.T, W), np.linalg.solve(L, W)
SPD = A @ A.T
chol = np.linalg.cholesky(SPD)
z = x * (1 + 2j)
back_z = w * np.conj(z) / np.abs(z)


sigma, unit, x4 = 1 / (1 + np.exp(-x)), np.exp(0.7j), RNG.normal(size=4)
coefficients = RNG.normal(size=4) + 1j * RNG.normal(size=4)
X3, db3 = np.linalg.solve(A, x3), np.linalg.solve(A.T, v3)
left, _, right = np.linalg.svd(A)
rows = RNG.normal(size=(3, 4))
scale, length = 1 / np.sqrt(rows.var(1, keepdims=True) + 0.01), np.linalg.norm(rows, axis=1, keepdims=True)
y_rows, unit_rows = (rows - rows.mean(1, keepdims=True)) * scale, rows / length

sources, sinks = np.array([0, 1, 2, 0]), np.array([3, 3, 4, 1])


def mean(a):
    return a.mean(1, keepdims=True)


def standardised(a):
    centred = a - a.mean(1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(centred**2, 1, keepdims=True) + 0.01)


def back_in_time(spectrum, count=6):
    """What a gradient by the frequencies of some numbers makes by the numbers."""
    wave = np.exp(-2j * np.pi * np.outer(np.arange(count), np.arange(len(spectrum))) / count)
    return (wave * spectrum).real.sum(1)


by_bins = np.array([v6 @ np.fft.irfft(coefficients * unit_bin) for unit_bin in np.eye(4)])
p_rows = np.exp(rows) / np.exp(rows).sum(0)


def hits(axis_hit):
    return v2[:, None] * axis_hit


def by_cholesky(inner):
    inverse = np.linalg.inv(chol)
    whole = inverse.T @ inner @ inverse
    return (whole + whole.T) / 2


G = chol.T @ np.tril(W)
unflipped = [sum(v4[j] * k3[2 - (m - j)] for j in range(4) if 0 <= m - j < 3) for m in range(6)]
by_kernel = np.array([sum(v4[j] * v6[j + i] for j in range(4)) for i in range(3)])


def solve(a, b):
    return jax.scipy.linalg.solve_triangular(a, b, lower=True)


def convolve(a, k):
    return jax.lax.conv_general_dilated(a[None, None], k[None, None], (1,), "VALID")[0, 0]


EXAMPLES = [
    # Family, operation, loss, arguments (the gradient is by the first), {part of the words: edited gradient}.
    ("softmax", "div", lambda x: jnp.sum(w * jax.nn.softmax(x)), (x,), {
        "is left out: the gradient passes": w,
        "is replaced by p g": p * w,
        "cut to its diagonal p (1 - p)": p * (1 - p) * w,
        "sum(g) stands in place": p * (w - w.sum()),
        "the factor p is left out": w - (p * w).sum(),
        "p sum(p g) is added": p * (w + (p * w).sum()),
        "the mean of p g stands": p * (w - (p * w).mean()),
    }),
    ("softmax", "div", lambda a: jnp.sum(W * jax.nn.softmax(a, 1)), (B,), {
        "runs over all rows": softmax(B, 1) * (W - (softmax(B, 1) * W).sum()),
        "runs along the wrong axis": softmax(B, 1) * (W - (softmax(B, 1) * W).sum(0)),
    }),
    ("softmax", "div", lambda x: jnp.sum(w * (jnp.exp(x) / jnp.sum(jnp.exp(x)))), (x,), {"is replaced by p g": p * w}),
    ("log_softmax", "sub", lambda x: jnp.sum(w * jax.nn.log_softmax(x)), (x,), {
        "is left out": w,
        "is not multiplied with the sum": w - p,
        "cut to its diagonal": w * (1 - p),
        "is added, not subtracted": w + p * w.sum(),
        "its value stands in place": w - np.log(p) * w.sum(),
    }),
    ("inverse", "transpose", lambda a: jnp.sum(W * jnp.linalg.inv(a)), (A,), {
        "both transposes are lost": -R @ W @ R,
        "the first transpose is lost": -R @ W @ R.T,
        "the second transpose is lost": -R.T @ W @ R,
        "the sign is lost": R.T @ W @ R.T,
        "R^T is taken once": -R.T @ W,
    }),
    ("matrix scalar", None, lambda a: 2 * jnp.linalg.det(a), (A,), {
        "the factor det(X) is left out": 2 * R.T,
        "of the determinant {f}, with the inverse R, the transpose is lost": 2 * det * R,
    }),
    ("matrix scalar", None, lambda a: 2 * jnp.linalg.slogdet(a)[1], (A,), {
        "of log det {f}, with the inverse R, the transpose is lost": 2 * R,
        "the factor det(X) is too much": 2 * det * R.T,
        "only the diagonal of the inverse": 2 * np.diag(np.diag(R)),
    }),
    ("elementwise", "tanh", lambda x: jnp.sum(w * jnp.tanh(x)), (x,), {
        "is left out": w,
        "replaced by the value of": w * t,
        "is replaced by 1 - f": w * (1 - t),
        "is replaced by 1 - f^2": w * (1 - t * t),
        "is replaced by f (1 - f)": w * t * (1 - t),
        "is replaced by f^2": w * t * t,
        "is replaced by 1 + f^2": w * (1 + t * t),
        "is replaced by f (1 + f)": w * t * (1 + t),
        "at its value instead": w * (1 - np.tanh(t) ** 2),
        "by the function itself, taken at f": w * np.tanh(t),
        "replaced by its argument": w * x,
        "replaced by x (1 - x)": w * x * (1 - x),
        "replaced by 1 - x^2": w * (1 - x * x),
        "by that of the sigmoid": w * sigma * (1 - sigma),
        "by that of tanh": w * d,
        "by that of softplus": w * sigma,
        "by that of a ReLU": w * (x > 0),
        "by that of an ELU": w * np.where(x > 0, 1, np.exp(x)),
        "by that of swish": w * (sigma + x * sigma * (1 - sigma)),
        "by the sigmoid of its argument": w * sigma,
        "by tanh of its argument": w * t,
        "taken twice": w * d * d,
        "divided by instead": w / d,
        "by the second derivative": w * -2 * t * d,
    }),
    ("elementwise", "sin", lambda x: jnp.sum(w * jnp.sin(3 * x)), (x,), {
        "absolute value": 3 * w * np.abs(np.cos(3 * x)),
    }),
    ("elementwise", "log", lambda x: jnp.sum(w * jnp.log(x)), (positive,), {
        "lacks a factor x": w / positive**2,
        "has a factor x": w,
        "lacks a factor f": w / positive / np.log(positive),
        "has a factor f": w / positive * np.log(positive),
    }),
    ("mask", "max", lambda x: jnp.sum(w * jnp.maximum(x, -0.3)), (x,), {
        "is left out": w,
        "is inverted": np.where(x > -0.3, 0, w),
        "from the gradient that arrives": np.where(w > 0, w, 0),
        "from the sign of {x}": np.where(x > 0, w, 0),
        "passes its own value": np.where(x > -0.3, x, 0),
    }),
    ("abs", "abs", lambda x: jnp.sum(w * jnp.abs(x)), (x,), {"the sign of {x} is left out": w}),
    ("mul", "mul", lambda x, c: jnp.sum(jnp.sin(x * c)), (x, c), {
        "the other factor {other} is left out": np.cos(x * c),
        "{x} itself stands": np.cos(x * c) * x,
        "its value stands": np.cos(x * c) * x * c,
        "{other} is divided by": np.cos(x * c) / c,
        "is taken twice": np.cos(x * c) * c * c,
        "1 - {other} stands": np.cos(x * c) * (1 - c),
        "sign removed": np.cos(x * c) * np.abs(c),
        "reversed order": np.cos(x * c) * c[::-1],
    }),
    ("mul", "mul", lambda x: jnp.sum(w * jnp.real(unit * x)), (x,), {"complex conjugate": w * np.real(unit)}),
    ("numerator", "div", lambda x, c: jnp.sum(jnp.sin(x / c)), (x, c), {
        "is left out": np.cos(x / c),
        "is multiplied with": np.cos(x / c) * c,
        "is taken twice": np.cos(x / c) / c**2,
    }),
    ("denominator", "div", lambda x, c: jnp.sum(jnp.sin(c / x)), (positive, c), {
        "once, not by its square": -np.cos(c / positive) * c / positive,
        "lacks the numerator": -np.cos(c / positive) / positive**2,
        "does not divide by its square": -np.cos(c / positive) * c,
        "its value stands": np.cos(c / positive) * c / positive,
    }),
    ("dot_general", "dot_general", lambda b, a: jnp.sum(W * (a @ b)), (B, A), {
        "is not transposed": A @ W,
        "is transposed": (A.T @ W).T,
        "in the wrong order": W @ A.T,
    }),
    ("dot_general", "dot_general", lambda a, b: jnp.sin(a @ b), (v4, x4), {
        "reversed order": np.cos(v4 @ x4) * x4[::-1],
    }),
    ("dot_general", "dot_general", lambda a, b: jnp.real((a + 0j) @ b), (x, w * unit), {
        "complex conjugate": np.real(w * unit),
    }),
    ("reduce_sum", "reduce_sum", lambda b: jnp.sum(jnp.sin(b.sum(1))), (B,), {
        "along the wrong axis": np.broadcast_to(np.cos(B.sum(1)), (3, 3)),
    }),
    ("reduce_max", "reduce_max", lambda a: jnp.sum(v2 * a.max(1)), (ties,), {
        "every entry that ties": hits(np.array([[1, 1, 0], [1, 0, 1]])),
        "to the first entry": hits(np.array([[1, 0, 0], [1, 0, 0]])),
        "to the last entry": hits(np.array([[0, 1, 0], [0, 0, 1]])),
        "shared by all entries equally": hits(np.full((2, 3), 1 / 3)),
        "goes to every entry": hits(np.ones((2, 3))),
    }),
    ("reduce_min", "reduce_min", lambda a: jnp.sum(v2 * a.min(1)), (-ties,), {
        "every entry that ties": hits(np.array([[1, 1, 0], [1, 0, 1]])),
        "to the first entry": hits(np.array([[1, 0, 0], [1, 0, 0]])),
        "to the last entry": hits(np.array([[0, 1, 0], [0, 0, 1]])),
        "shared by all entries equally": hits(np.full((2, 3), 1 / 3)),
        "goes to every entry": hits(np.ones((2, 3))),
    }),
    ("broadcast_in_dim", "broadcast_in_dim", lambda a: jnp.sum(W34 * jnp.broadcast_to(a, (3, 4))), (x31,), {
        "only its first part": W34[:, :1],
        "only its last part": W34[:, -1:],
        "averaged over its copies": W34.mean(1, keepdims=True),
        "summed over all rows, not over each": np.full((3, 1), W34.sum() / 3),
        "once for each": np.full((3, 1), W34.sum()),
    }),
    ("broadcast_in_dim", "broadcast_in_dim", lambda a: jnp.sum(W * jnp.broadcast_to(a, (3, 3))), (v3,), {
        "along the wrong axis": W.sum(1),
    }),
    ("broadcast_in_dim", "mul", lambda a: jnp.sum(W * jax.lax.mul(a, B)), (v3[None],), {
        "only its first part": (W * B)[:1],
        "along the wrong axis": (W * B).sum(1)[None],
    }),
    ("gather", "gather", lambda a: jnp.sum(v4 * a[ids]), (x3,), {
        "only the last one": np.array([v4[2], v4[1], v4[3]]),
        "only the first one": np.array([v4[0], v4[1], v4[3]]),
    }),
    ("conv_general_dilated", "conv_general_dilated", lambda a: jnp.sum(v4 * convolve(a, k3)), (v6,), {
        "the kernel is not flipped": np.array(unflipped),
    }),
    ("conv_general_dilated", "conv_general_dilated", lambda k: jnp.sum(v4 * convolve(v6, k)), (k3,), {
        "by its kernel {x} is flipped": by_kernel[::-1],
    }),
    ("pow", "pow", lambda y, b: jnp.sum(w * b**y), (x, positive), {"the factor log": w * positive**x}),
    ("pow", "pow", lambda b, y: jnp.sum(w * b**y), (positive, x), {
        "lacks the exponent": w * positive ** (x - 1),
        "the exponent unreduced": w * x * positive**x,
    }),
    ("rem", "rem", lambda b, a: jnp.sum(w * jax.lax.rem(a, b)), (-positive, 3 * positive + 0.1), {
        "floor(x / y)": -w * np.floor((3 * positive + 0.1) / -positive),
    }),
    ("triangular_solve", "triangular_solve", lambda a: jnp.sum(W * solve(a, B)), (A,), {
        "is not masked": -dB @ X.T,
        "to the wrong triangle": np.triu(-dB @ X.T),
        "is transposed": np.tril((-dB @ X.T).T),
        "is with the matrix": np.tril(-wrong_dB @ X.T),
    }),
    ("triangular_solve", "triangular_solve", lambda b: jnp.sum(W * solve(A, b)), (B,), {
        "is with the matrix": wrong_dB,
    }),
    ("cholesky", "cholesky", lambda a: jnp.sum(W * jnp.linalg.cholesky(a)), (SPD,), {
        "is not halved": by_cholesky(np.tril(G)),
        "not cut to its lower": by_cholesky(G),
        "without the diagonal": by_cholesky(np.tril(G, -1)),
    }),
    ("expm", "expm", lambda a: jnp.sum(W * jax.scipy.linalg.expm(a)), (B,), {
        "exp(A)^T g stands": expm(B).T @ W,
        "g exp(A)^T stands": W @ expm(B).T,
        "entry by entry": W * np.exp(B),
    }),
    ("transpose", "transpose", lambda a: jnp.sum(jnp.sin(a.T) * W34.T), (rows,), {
        "is only reshaped": (np.cos(rows.T) * W34.T).reshape(3, 4),
    }),
    ("padded", None, lambda a: jnp.sum(v6 * jnp.pad(a, 1, mode="edge")), (v4,), {"sends nothing back": v6[1:-1]}),
    ("cumsum", "cumsum", lambda a: jnp.sum(w * jnp.cumsum(a)), (x,), {
        "summed forwards": np.cumsum(w),
        "is not summed": w,
    }),
    ("complex", "abs", lambda a: jnp.sum(w * jnp.abs(a * (1 + 2j))), (x,), {
        "conjugate is missing": np.real(np.conj(back_z) * (1 + 2j)),
        "only the real part": np.real(back_z),
    }),
    ("fft", "fft", lambda a: jnp.sum(jnp.real(coefficients * jnp.fft.rfft(a))), (v6,), {
        "count twice": back_in_time(coefficients * np.array([1, 2, 2, 1])),
        "count half": back_in_time(coefficients * np.array([1, 0.5, 0.5, 1])),
    }),
    ("solve", None, lambda b, a: jnp.sum(v3 * jnp.linalg.solve(a, b)), (x3, A), {
        "is with A, not with its transpose": np.linalg.solve(A, v3),
        "with the transpose of A is left out": v3,
        "stands in place of the solve": A.T @ v3,
    }),
    ("solve", None, lambda a, b: jnp.sum(v3 * jnp.linalg.solve(a, b)), (A, x3), {
        "the sign is lost": np.outer(db3, X3),
        "x = A^-1 b, is transposed": -np.outer(X3, db3),
        "the inverse of A stands": -np.outer(np.linalg.solve(A, v3), X3),
        "the solve is left out": -np.outer(v3, X3),
    }),
    ("svd", "svd", lambda a: jnp.sum(v3 * jnp.linalg.svd(a, compute_uv=False)), (A,), {
        "V stands in place of V^T": left @ np.diag(v3) @ right.T,
        "singular values {f} is transposed": (left @ np.diag(v3) @ right).T,
    }),
    ("standardised", None, lambda a: jnp.sum(W34 * standardised(a)), (rows,), {
        "= y, mean(g) is left out": scale * (W34 - y_rows * mean(W34 * y_rows)),
        "= y, y mean(g y) is left out": scale * (W34 - mean(W34)),
        "mean(g) and y mean(g y) are left out": scale * W34,
        "the factor s is left out": W34 - mean(W34) - y_rows * mean(W34 * y_rows),
        "y mean(g y) is added": scale * (W34 - mean(W34) + y_rows * mean(W34 * y_rows)),
        "= y, mean(g) is added": scale * (W34 + mean(W34) - y_rows * mean(W34 * y_rows)),
        "sums stand for the means": scale * (W34 - 4 * mean(W34) - 4 * y_rows * mean(W34 * y_rows)),
        "x stands for y": scale * (W34 - mean(W34) - y_rows * mean(W34 * rows)),
        "y g stands for y mean(g y)": scale * (W34 - mean(W34) - y_rows * y_rows * W34),
        "over all rows": scale * (W34 - W34.sum() / 4 - y_rows * np.sum(W34 * y_rows) / 4),
    }),
    ("scaled to one", None, lambda a: jnp.sum(W34 * (a / jnp.linalg.norm(a, axis=1, keepdims=True))), (rows,), {
        "k y sum(g y) is left out": W34 / length,
        "the factor s is left out": W34 - unit_rows * 4 * mean(W34 * unit_rows),
        "is added, not subtracted": (W34 + unit_rows * 4 * mean(W34 * unit_rows)) / length,
        "x stands for y": (W34 - unit_rows * 4 * mean(W34 * rows)) / length,
        "y g stands for sum(g y)": (W34 - unit_rows**2 * W34) / length,
        "wrong factor k": (W34 - unit_rows * mean(W34 * unit_rows)) / length,
        "over all rows": (W34 - unit_rows * np.sum(W34 * unit_rows)) / length,
    }),
    ("passed on", "tanh", lambda h, m: jnp.sum(v3 * jnp.tanh(m @ h + 1)), (v4, W34), {
        "the derivative of the {last} is left out": W34.T @ v3,
    }),
    ("scaled", "sub", lambda a, b: jnp.sum(w * (a - b)), (x, c), {
        "a factor {x} too much": w * x,
        "lacks a factor {x}": w / x,
    }),
    ("jacobian", "div", lambda a: jnp.sum(w * (a / jnp.sqrt(jnp.sum(a**2)))), (x,), {
        "is left out": w,
        "cut to its diagonal": w * (1 / norm - x**2 / norm**3),
        "the value of {f} stands": w * x / norm,
    }),
    ("jacobian", "scatter-add", lambda a: jnp.sum(w * jax.ops.segment_sum(a[sources], sinks, 5)), (x,), {
        "where its transpose is meant": np.bincount(sinks, w[sources], 5),
    }),
    ("any", "sub", lambda a, b: jnp.sum(w * (a - b)), (x, c), {
        "is left out": np.zeros(5),
        "has the wrong sign": -w,
        "shifted by one along": np.roll(w, 1),
        "shifted by one, backwards": np.roll(w, -1),
    }),
    ("output", "tanh", lambda a: jnp.sum(w * jnp.tanh(a)), (x,), {"is ignored": d, "by the value of": t * d}),
    ("output", "mul", lambda a: jnp.sum(a * jnp.sin(a)) + jnp.sum(w * a), (x,), {"is treated as a constant": w}),
    ("affine output", "dot_general", lambda a: jnp.sum(v3 * (A @ a)), (x3,), {
        "of a sigmoid": A.T @ (v3 * s * (1 - s)),
        "1 - tanh^2": A.T @ (v3 * (1 - np.tanh(A @ x3) ** 2)),
        "mask of a ReLU": A.T @ (v3 * (A @ x3 > 0)),
        "its own value": A.T @ (v3 * (A @ x3)),
    }),
    ("elementwise", None, lambda x: jnp.sum(w * jnp.log1p(jnp.exp(x))), (x,), {"by that of tanh": w * d}),
    ("elementwise", None, lambda x: jnp.sum(w * (x * jax.nn.sigmoid(x))), (x,), {"by that of tanh": w * d}),
    ("elementwise", None, lambda x: jnp.sum(w * ((x + jnp.abs(x)) / 2)), (x,), {"by that of tanh": w * d}),
    ("elementwise", None, lambda x: jnp.sum(w * jax.nn.elu(x)), (x,), {"by that of tanh": w * d}),
    ("softmax", "div", lambda a: jnp.sum(W34 * jax.nn.softmax(a, 0)), (rows,), {
        "is replaced by p g": p_rows * W34,
        "sum(g) stands in place": p_rows * (W34 - W34.sum(0)),
        "the factor p is left out": W34 - (p_rows * W34).sum(0),
    }),
    ("reduce_max", "reduce_max", lambda a: jnp.sum(v2 * a.max(0)), (ties.T,), {
        "every entry that ties": hits(np.array([[1, 1, 0], [1, 0, 1]])).T,
        "to the first entry": hits(np.array([[1, 0, 0], [1, 0, 0]])).T,
        "to the last entry": hits(np.array([[0, 1, 0], [0, 0, 1]])).T,
        "shared by all entries equally": hits(np.full((2, 3), 1 / 3)).T,
    }),
    ("cumsum", "cumsum", lambda a: jnp.sum(W34 * jnp.cumsum(a, 1)), (rows,), {
        "summed forwards": np.cumsum(W34, 1),
    }),
    ("cumsum", "cumsum", lambda a: jnp.sum(W34 * jax.lax.cumsum(a, 1, reverse=True)), (rows,), {
        "summed forwards": np.cumsum(W34[:, ::-1], 1)[:, ::-1],
    }),
    ("fft", "fft", lambda a: jnp.sum(jnp.real(coefficients[:3] * jnp.fft.rfft(a))), (x,), {
        "count twice": back_in_time(coefficients[:3] * np.array([1, 2, 2]), 5),
    }),
    ("fft", "fft", lambda a: jnp.sum(v6 * jnp.fft.irfft(coefficients * a)), (v4,), {
        "count twice": by_bins * np.array([1, 2, 2, 1]),
        "count half": by_bins * np.array([1, 0.5, 0.5, 1]),
    }),
    ("broadcast_in_dim", "broadcast_in_dim", lambda a: jnp.sum(W * jnp.broadcast_to(a[:, None], (3, 3))), (v3,), {
        "only its first part": W[:, 0],
        "along the wrong axis": W.sum(0),
    }),
]  # fmt: skip

ROWS = [
    pytest.param(family, operation, loss, args, part, expected, id=f"{family}: {part}")
    for family, operation, loss, args, edited in EXAMPLES
    for part, expected in edited.items()
]


READ = {}


def read_program(loss, args):
    """The program of a loss and its candidates; the same for all edits of it."""
    if loss not in READ:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            tape = record(jax.make_jaxpr(loss)(*args), args, [True] + [False] * (len(args) - 1))
            reading = read(tape, [f"args[{i}]" for i in range(len(args))])
            READ[loss] = reading.tape, candidates(reading)
    return READ[loss]


def change_of(family, part):
    """The change of a family whose words contain a part, and if several do, the one whose words end with it."""
    found = [change for change in EDITS[family] if part in change.words]
    exact = [change for change in found if change.words.endswith(part)]
    return (exact or found)[0]


@pytest.mark.parametrize(("family", "operation", "loss", "args", "part", "expected"), ROWS)
def test_an_edit_sends_back_what_its_words_say(family, operation, loss, args, part, expected):
    tape, found = read_program(loss, args)
    change = change_of(family, part)
    tried = [
        candidate
        for candidate in found
        if len(candidate.spots) == 1
        and candidate.spots[0][1] is change
        and operation in (None, tape.steps[candidate.spots[0][0].step].name)
    ]
    assert tried, f"the edit is not a candidate: {part}"
    edited = [backward(tape, [candidate.edits(tape)])[0][1] for candidate in tried]
    assert any(np.allclose(gradient, expected, rtol=1e-9, atol=1e-12) for gradient in edited), (edited, expected)


LIKE_DET, LIKE_LOG_DET = (value + 0.4 for value in (det, np.linalg.slogdet(A)[1]))

REFUSED = [
    # Loss, arguments, parts of the words of edits that make no sense there.
    (lambda b, a: jnp.sum(W34 * (a @ b)), (rows.T @ rows[:, :4], W34), ("{other} is not transposed",)),
    (lambda a, b: jnp.sum(jnp.sin(a @ b)), (W34, RNG.normal(size=(4, 2))),
     ("matrix product {f} by {x} is transposed", "entries of {other} stand in reversed", "complex conjugate")),
    (lambda b: jnp.sin(jnp.sum(b)), (B,), ("spread along the wrong axis",)),
    (lambda b: jnp.sum(jnp.sin(b.sum(1))), (rows,), ("spread along the wrong axis",)),
    (lambda a: jnp.sum(v3 * jnp.broadcast_to(a, (1, 3))), (x3,), ("only its first part", "averaged over its copies")),
    (lambda a: jnp.sum(W34 * jnp.broadcast_to(a, (3, 4))), (v4[:1],), ("over all rows", "once for each")),
    (lambda a: jnp.sum(W34 * jnp.broadcast_to(a, (3, 4))), (v4,), ("along the wrong axis",)),
    (lambda a: jnp.sum(v3 * a[np.array([2, 0, 1])]), (x3,), ("several times",)),
    (lambda a: jnp.sum(v2 * jnp.sin(a)), (v2[::-1],), ("shifted by one",)),
    (lambda a, b: jnp.sin(a * b), (x[0], c[0]), ("stand in reversed", "complex conjugate", "is ignored")),
    (lambda a: jnp.sum(jnp.sin(jnp.tanh(a) * a)), (v6[:1],), ("cut to its diagonal",)),
    (lambda a: jnp.sum(a / jnp.sqrt(jnp.sum(a**2))), (np.arange(1.0, 66.0),), ("cut to its diagonal",)),
    (lambda a: jnp.sum(jnp.sin(jnp.cos(a))), (W34,),
     ("transposes are lost", "determinant", "log det", "singular values")),
    (lambda a: jnp.sum(W * jnp.sin(jnp.cos(a))), (0.1 * A,), ("transposes are lost", "R^T is taken once")),
    (lambda a: jnp.sum(a) * LIKE_DET / np.sum(A), (A,), ("of the determinant",)),
    (lambda a: jnp.sum(a) * LIKE_LOG_DET / np.sum(A), (A,), ("of log det",)),
    (lambda a: jnp.sum(W * jax.scipy.linalg.solve_triangular(a, B, lower=True, unit_diagonal=True)), (A,),
     ("is not masked to", "is masked to the wrong", "triangular solve {f} is transposed")),
    (lambda a: jnp.sum(jnp.sin(a) ** 2), (x,), ("replaced by 1 - f^2", "by that of tanh", "replaced by x (1 - x)")),
    (lambda a: jnp.sum(w * jnp.sin(a)), (x,), ("lacks a factor x", "has a factor f")),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "args", "parts"), REFUSED)
def test_an_edit_is_not_tried_where_it_makes_no_sense(loss, args, parts):
    _, tried = read_program(loss, args)
    assert tried
    words = {change.words for candidate in tried for _, change in candidate.spots}
    assert not [text for part in parts for text in words if part in text]
    assert all(any(part in change.words for changes in EDITS.values() for change in changes) for part in parts)


@pytest.mark.parametrize("family", EDITS)
def test_every_edit_has_an_example(family):
    shown = {id(change_of(f, part)) for f, _, _, _, edited in EXAMPLES for part in edited if f == family}
    missing = [change.words for change in EDITS[family] if id(change) not in shown]
    assert not missing


@pytest.mark.parametrize(("function", "slope"), elementwise.BY_VALUE)
def test_a_slope_by_the_value_is_the_derivative(function, slope):
    np.testing.assert_allclose(slope(function(x)), (function(x + 1e-5) - function(x - 1e-5)) / 2e-5, rtol=1e-8)


def test_the_example_of_contributing(monkeypatch):
    """An edit is added as CONTRIBUTING shows it: change, entry and example."""
    change, entry, shown = blocks_of("Adding an edit of the backward pass")
    inside = dict(vars(elementwise))
    exec(change, inside)
    added = types.SimpleNamespace(COSINE=inside["COSINE"])
    for name, changes in eval(f"{{{entry}}}", {"elementwise": added}).items():
        monkeypatch.setitem(EDITS, name, changes)
    ((family, operation, loss, args, edited),) = eval(shown, {"jnp": jnp, "np": np, "w": w, "x": x})
    ((part, expected),) = edited.items()
    test_an_edit_sends_back_what_its_words_say(family, operation, loss, args, part, expected)
