"""Standard scores of the inputs, and the way back to the units of the data."""

from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.arrays import floating
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.types import LinearMapParams, LinearParams, LineParams
from jaxgd.validation import check_rank, check_shape


class Standardization(NamedTuple):
    """Means and scales of the inputs, `z = (x - mean) / scale`.

    Attributes:
      mean: `[D]`, in the units of the inputs.
      scale: `[D]`, their standard deviations (over N), or one for all.
    """

    mean: Array
    scale: Array

    def apply(self, inputs: Any) -> Array:
        """Standardised inputs.

        Args:
          inputs: `[N, D]`, in the units of the source; an array, nested lists or a frame.

        Returns:
          `[N, D]` float64, without units.

        Raises:
          ValueError: the inputs are not `[N, D]` for the D columns that were standardised.
          TypeError: they are not real numbers.
        """
        values = np.asarray(floating("inputs", inputs), np.float64)
        check_rank("inputs", values, (2,), "[N, D]")
        check_shape("inputs", values, (len(values), len(self.mean)), "the columns that were standardised")
        scores: Array = (values - self.mean) / self.scale
        return scores

    def in_data_units(self, params: Any) -> Any:
        """Parameters for the raw inputs from parameters for the standardised ones.

        `w . (x - mean) / scale + b = (w / scale) . x + (b - sum w mean / scale)`, in float64; of a network
        the first layer changes.

        Args:
          params: a `LinearParams`, `LineParams`, `LinearMapParams` or a network's parameters.

        Returns:
          The same type, float64.

        Raises:
          TypeError: parameters of another model.
        """
        if hasattr(params, "layers"):
            first, *others = params.layers
            return params._replace(layers=(self.in_data_units(first), *others))
        if isinstance(params, LineParams):
            raw = self._affine(np.asarray(params.slope)[None, None], np.asarray(params.intercept)[None])
            return LineParams(intercept=raw.bias[0], slope=raw.weights[0, 0])
        if isinstance(params, LinearMapParams):
            raw = self._affine(np.asarray(params.matrix).T, np.asarray(params.bias))
            return LinearMapParams(matrix=raw.weights.T, bias=raw.bias)
        if isinstance(params, LinearParams):
            return self._affine(np.asarray(params.weights), np.asarray(params.bias))
        raise TypeError(f"`params` must be those of an affine model or a network, got {type(params).__name__}.")

    def _affine(self, weights: Array, bias: Array) -> LinearParams:
        raw = (weights.astype(np.float64).T / self.scale).T
        return LinearParams(weights=raw, bias=bias.astype(np.float64) - self.mean @ raw)


def standardize(inputs: Any, *, shared_unit: bool = False) -> tuple[Array, Standardization]:
    """Standard scores of the inputs: mean 0 and standard deviation 1 in every column.

    Descent on such inputs takes far fewer steps. Fit on the scores, and take the parameters back:
    `scores, scaling = standardize(X)`, later `scaling.in_data_units(result.params)`; new rows are `scaling.apply(new)`.

    Args:
      inputs: `[N, D]`, in their own units; an array, nested lists or a frame.
      shared_unit: whether all columns are of one kind, as pixels are, and so share one scale.

    Returns:
      `[N, D]` float64 without units, and the means and scales.

    Raises:
      ValueError: the inputs are not `[N, D]` with N of at least 1, not finite, or a column is constant.
      TypeError: they are not real numbers.
    """
    names = [str(name) for name in getattr(inputs, "columns", ())]
    values = np.asarray(floating("inputs", inputs), np.float64)
    check_rank("inputs", values, (2,), "[N, D]")
    if not len(values):
        raise ValueError("`inputs` must have at least one row, got 0.")
    if not np.isfinite(values).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"`inputs` must be finite, got {values[row, column]} at row {row}, column {column}.")
    scaling, constant = _scaling(values, shared_unit)
    if constant is not None:
        name = repr(names[constant]) if names else constant
        raise ValueError(
            f"`inputs` must not have a constant column to be standardised, got {values[0, constant]:g} in every row of "
            f"column {name}; leave it out."
        )
    return scaling.apply(values), scaling


def _scaling(inputs: Array, shared_unit: bool) -> tuple[Standardization, int | None]:
    """Means and scales, and the first column that is constant (None if none is)."""
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    if shared_unit:
        scale = np.full_like(mean, np.sqrt(np.mean(scale**2)))
    constant = scale == 0 if shared_unit else np.ptp(inputs, axis=0) == 0
    return Standardization(mean, scale), int(np.argmax(constant)) if constant.any() else None


def standardization(dataset: Dataset) -> Standardization:
    """Means and standard deviations of the inputs; one deviation for all where they share a unit.

    Args:
      dataset: inputs `[N, D]`.

    Returns:
      The pair.

    Raises:
      DataError: a column is constant.
    """
    scaling, constant = _scaling(dataset.inputs, dataset.shared_unit)
    if constant is not None:
        raise DataError(
            f"{dataset.name}, column {dataset.input_names[constant]!r}: constant "
            f"({dataset.inputs[0, constant]:g} in every row) and cannot be standardised; "
            "leave it out with --features, or use --no-standardize."
        )
    return scaling
