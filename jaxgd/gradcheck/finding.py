"""The findings of a check, and their kinds."""

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """The kind of a finding. The examples are mistakes in the gradient `(f - y) x` of `1/2 (f - y)^2`, `f = w x + b`.

    Attributes:
      STRUCTURE: the tree differs from that of the parameters (`{"w": ...}` without `"b"`).
      SHAPE: a leaf has another shape than its parameter (`[1, D]` instead of `[D]`).
      NOT_SUMMED: a leaf is not summed over an axis (`r` instead of `sum(r)` for the bias).
      TRANSPOSED: a leaf is the transpose of the gradient (`outer(x, r)` instead of `outer(r, x)`).
      DTYPE: a leaf has another dtype than its parameter.
      RANDOM: a second call gave another result (random noise, or a counter kept between calls).
      RAISED: the gradient function raised an exception.
      NONFINITE: NaN or infinity although the gradient is finite (`r / r`).
      OVERFLOW: infinite or NaN only in the dtype of the inputs (`exp(z) / (1 + exp(z))` at z = 100 in float32).
      CANCELLATION: inaccurate in the dtype of the inputs, unlike reverse mode (`(1 + z) - 1`).
      PRECISION: computed in a lower precision than that of the parameters (`x.astype(float16)`).
      SIGN: the gradient times -1 (`(y - f) x`).
      CONJUGATE: the complex conjugate of the gradient, which is the convention of another library.
      FACTOR: the gradient times a constant (`2 (f - y) x`, or the mean instead of the sum).
      ZERO: all entries are zero (`zeros_like(w)`).
      SWAPPED: the gradient of another leaf (`db` returned as `dw`).
      ORDER: the entries in another order (`g[::-1]`, or shifted by one).
      PENALTY: a multiple of the parameter is added or missing (`+ l2 w` missing, or also on the bias).
      CONSTANT: a constant is added or missing (`g + 1`).
      ARGUMENT: the gradient for another value of an argument (`f x`: y is left out).
      STALE: the gradient at other parameters (values kept from an earlier call).
      ROWS: some rows of the data are left out (`inputs[:-1]`) or counted twice.
      CLIPPED: the gradient is clipped, or its absolute values or signs are returned.
      DERIVATIVE: one local derivative is left out or replaced (`f (1 - f)` missing, or replaced by `f`).
      PATH: one path from the parameter to the loss is left out (the normaliser of a softmax).
      MASK: a mask is computed from the wrong array (`r > 0` instead of `z > 0` after a ReLU).
      OPERAND: a product uses the wrong array (values before a ReLU instead of those after it).
      ENTRIES: some entries, rows or columns are wrong, each by a factor.
      UNKNOWN: no single known mistake explains the gradient.
      KINK: the loss is not differentiable here (ReLU at 0). A mistake only if the result is not a valid subgradient.
      REFERENCE: reverse mode of the loss is wrong or NaN, for example by a wrong custom rule. A mistake only if the
        gradient agrees with reverse mode and not with the values of the loss.
      STOP_GRADIENT: the loss stops gradients, so reverse mode is not the slope of its values. Not a mistake.
      SET: the gradient assumes that its parameter is symmetric, triangular, orthogonal or on a simplex. No mistake.
      INCOMING: a rule does not use the incoming gradient, or not linearly (`cos(x)` instead of `g cos(x)`).
      FORWARD: the forward pass of a rule returns other values than its function.
      SURROGATE: a rule returns a derivative although the derivative of its function is zero (a straight-through
        estimator).
    """

    STRUCTURE = "structure"
    SHAPE = "shape"
    NOT_SUMMED = "not summed"
    TRANSPOSED = "transposed"
    DTYPE = "dtype"
    RANDOM = "random"
    RAISED = "raised"
    NONFINITE = "not finite"
    OVERFLOW = "overflow"
    CANCELLATION = "cancellation"
    PRECISION = "precision"
    SIGN = "sign"
    CONJUGATE = "conjugate"
    FACTOR = "factor"
    ZERO = "zero"
    SWAPPED = "swapped"
    ORDER = "order"
    PENALTY = "penalty"
    CONSTANT = "constant"
    ARGUMENT = "argument"
    STALE = "stale"
    ROWS = "rows"
    CLIPPED = "clipped"
    DERIVATIVE = "derivative"
    PATH = "path"
    MASK = "mask"
    OPERAND = "operand"
    ENTRIES = "entries"
    UNKNOWN = "unknown"
    KINK = "kink"
    REFERENCE = "reference"
    STOP_GRADIENT = "stop_gradient"
    SET = "set"
    INCOMING = "incoming gradient"
    FORWARD = "forward pass"
    SURROGATE = "surrogate"


class Finding(NamedTuple):
    """One finding of a check.

    Attributes:
      leaf: the path of the leaf, as `jax.tree_util.keystr` writes it; "" for the whole gradient.
      kind: the kind of the finding.
      message: a sentence.
      wrong: True if the gradient is wrong because of it; False for a note.
      explains: whether the finding names the mistake, and not only its place.
    """

    leaf: str
    kind: Kind
    message: str
    wrong: bool = True
    explains: bool = True
