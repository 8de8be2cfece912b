"""Standardise inputs, and convert fitted parameters back to the units of the data."""

from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.arrays import floating
from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.data.processes import gather
from jaxgd.types import LinearMapParams, LinearParams, LineParams
from jaxgd.validation import check_rank, check_shape


class Standardization(NamedTuple):
    """Means and scales of the inputs, `z = (x - mean) / scale`.

    Attributes:
      mean: `[D]`, in the units of the inputs.
      scale: `[D]`, the standard deviations of the inputs (divided by N, not N - 1), or one number for all inputs.
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

        `w . (x - mean) / scale + b = (w / scale) . x + (b - sum w mean / scale)`, computed in float64. For a network
        this is applied to the first layer.

        Args:
          params: a `LinearParams`, `LineParams`, `LinearMapParams`, or the parameters of a network.

        Returns:
          Parameters of the same type, in float64.

        Raises:
          TypeError: the parameters belong to another model.
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
    """Scale the inputs to mean 0 and standard deviation 1 in every column.

    Descent needs far fewer steps on standardised inputs. Write `scores, scaling = standardize(X)` and fit on `scores`.
    Then `scaling.in_data_units(result.params)` converts the parameters to the units of X, and `scaling.apply(new)`
    standardises new rows.

    Args:
      inputs: `[N, D]`, in their own units; an array, nested lists or a frame.
      shared_unit: True scales all columns by the same number, for columns with the same unit, such as pixels.

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
    """Means and scales, and the index of the first constant column, or None."""
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    if shared_unit:
        scale = np.full_like(mean, np.sqrt(np.mean(scale**2)))
    constant = scale == 0 if shared_unit else np.ptp(inputs, axis=0) == 0
    return Standardization(mean, scale), int(np.argmax(constant)) if constant.any() else None


def _scaling_of_shares(inputs: Array) -> tuple[Standardization, int | None]:
    """`_scaling` of the rows of all processes, from the sums over each (Chan, Golub and LeVeque 1983)."""
    mine = (len(inputs), inputs.mean(axis=0), inputs.var(axis=0), inputs.min(axis=0), inputs.max(axis=0))
    sizes, means, variances, least, most = map(np.array, zip(*gather(mine), strict=True))
    mean = np.average(means, axis=0, weights=sizes)
    variance = np.average(variances + (means - mean) ** 2, axis=0, weights=sizes)
    constant = least.min(axis=0) == most.max(axis=0)
    return Standardization(mean, np.sqrt(variance)), int(np.argmax(constant)) if constant.any() else None


def standardization(dataset: Dataset) -> Standardization:
    """Means and standard deviations of the inputs; one deviation for all columns if they share a unit.

    Args:
      dataset: inputs `[N, D]`.

    Returns:
      The pair.

    Raises:
      DataError: a column is constant.
    """
    if dataset.shares is None:
        scaling, constant = _scaling(dataset.inputs, dataset.shared_unit)
    else:
        scaling, constant = _scaling_of_shares(dataset.inputs)
    if constant is not None:
        raise DataError(
            f"{dataset.name}, column {dataset.input_names[constant]!r}: constant "
            f"({dataset.inputs[0, constant]:g} in every row) and cannot be standardised; "
            "leave it out with --features, or use --no-standardize."
        )
    return scaling
