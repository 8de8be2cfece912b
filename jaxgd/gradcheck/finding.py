"""One thing that a check has found, and the kinds of such things."""

import enum
from typing import NamedTuple


class Kind(enum.Enum):
    """What a finding says. The examples are mistakes in the gradient `(f - y) x` of `1/2 (f - y)^2`, `f = w x + b`.

    Attributes:
      STRUCTURE: the tree is not that of the parameters (`{"w": ...}` without `"b"`).
      SHAPE: a leaf has another shape than its parameter (`[1, D]` for `[D]`).
      NOT_SUMMED: a leaf still has an axis to be summed over (`r` for the bias where `sum(r)` is meant).
      TRANSPOSED: a leaf is the transpose of the gradient (`outer(x, r)` for `outer(r, x)`).
      DTYPE: a leaf has another dtype than its parameter.
      RANDOM: a second call gave another answer (noise drawn inside, a counter kept).
      RAISED: the gradient function raised an exception.
      NONFINITE: NaN or infinity where the gradient is finite (`r / r`).
      OVERFLOW: infinite or NaN only in its own dtype (`exp(z) / (1 + exp(z))` at z = 100 in float32).
      CANCELLATION: digits lost in its own dtype that reverse mode keeps (`(1 + z) - 1`).
      PRECISION: computed in a lower precision than the parameters have (`x.astype(float16)`).
      SIGN: the gradient times -1 (`(y - f) x`).
      CONJUGATE: the conjugate of the gradient by a complex parameter, which is the convention of another library.
      FACTOR: the gradient times a constant (`2 (f - y) x`, the mean in place of the sum).
      ZERO: nothing but zeros (`zeros_like(w)`).
      SWAPPED: the gradient of another leaf (`db` returned as `dw`).
      ORDER: the entries in another order (`g[::-1]`, a column shifted by one).
      PENALTY: a multiple of the parameter too much or too little (`+ l2 w` on the bias, or left out).
      CONSTANT: a constant too much or too little (`g + 1`).
      ARGUMENT: the gradient as if an argument had another value (`f x`: y left out; weights left out).
      STALE: the gradient at other parameters than those given (values kept from an earlier call).
      ROWS: some rows of the data left out (`inputs[:-1]`), or counted twice.
      CLIPPED: entries or the whole cut to a largest size, absolute values taken, or only the signs kept.
      DERIVATIVE: one local derivative dropped or replaced (`f (1 - f)` missing, or `f` for it).
      PATH: one way from the parameter to the loss left out (the normaliser of a softmax).
      MASK: a mask taken from another array (`r > 0` for `z > 0` behind a ReLU).
      OPERAND: a product with another array than the loss's (values before a ReLU for those behind it).
      ENTRIES: single entries, rows or columns wrong, by a factor each.
      UNKNOWN: no single mistake that is known explains it.
      KINK: not differentiable here (ReLU at 0). A mistake only if the answer is none of those that are right here.
      REFERENCE: reverse mode of the loss is wrong or NaN, a custom rule for one. A mistake where the gradient
        shares it, none where the values of the loss prove the gradient right.
      STOP_GRADIENT: the loss stops gradients, so that reverse mode is not the slope of its values. No mistake.
      SET: the gradient uses that its parameter is symmetric, triangular, orthogonal or on the simplex. No mistake.
      INCOMING: a rule does not use the gradient that arrives at it, or not linearly (`cos(x)` for `g cos(x)`).
      FORWARD: the forward pass of a rule returns other values than its function.
      SURROGATE: a rule has a derivative where its function has none (a straight-through estimator).
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
    """One thing found.

    Attributes:
      leaf: the parameter's path, as `jax.tree_util.keystr` writes it; "" for the whole.
      kind: what it is.
      message: in words.
      wrong: whether it makes the gradient wrong; a note otherwise.
      explains: whether it says what was done wrong, and not only that something is and where.
    """

    leaf: str
    kind: Kind
    message: str
    wrong: bool = True
    explains: bool = True
