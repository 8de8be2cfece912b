"""Standard scores of the inputs, and the way back to the units of the data."""

from typing import Any, NamedTuple

import numpy as np

from jaxgd.data.dataset import Array, DataError, Dataset
from jaxgd.types import LinearMapParams, LinearParams, LineParams


class Standardization(NamedTuple):
    """Means and scales of the inputs, `z = (x - mean) / scale`.

    Attributes:
      mean: `[D]`, in the units of the inputs.
      scale: `[D]`, their standard deviations (over N), or one for all.
    """

    mean: Array
    scale: Array

    def apply(self, inputs: Array) -> Array:
        """Standardised inputs.

        Args:
          inputs: `[N, D]`, in the units of the source.

        Returns:
          `[N, D]`, without units.
        """
        return (inputs - self.mean) / self.scale

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


def standardization(dataset: Dataset) -> Standardization:
    """Means and standard deviations of the inputs; one deviation for all where they share a unit.

    Args:
      dataset: inputs `[N, D]`.

    Returns:
      The pair.

    Raises:
      DataError: a column is constant.
    """
    mean, scale = dataset.inputs.mean(axis=0), dataset.inputs.std(axis=0)
    if dataset.shared_unit:
        scale = np.full_like(mean, np.sqrt(np.mean(scale**2)))
    constant = (np.ptp(dataset.inputs, axis=0) == 0) & (not dataset.shared_unit)
    if constant.any():
        column = int(np.argmax(constant))
        raise DataError(
            f"{dataset.name}, column {dataset.input_names[column]!r}: constant "
            f"({dataset.inputs[0, column]:g} in every row) and cannot be standardised; "
            "leave it out with --features, or use --no-standardize."
        )
    return Standardization(mean, scale)
