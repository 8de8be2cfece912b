"""Means and covariances of rows that are read once, and few rows with the same means and covariances."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgd.data.dataset import Array


class Statistics(NamedTuple):
    """The number, means and covariances of the rows read so far, with P columns, in float64.

    Attributes:
      num_rows: N.
      mean: `[P]`.
      scatter: `[P, P]`, `sum_i (row_i - mean)(row_i - mean)^T`.
    """

    num_rows: int
    mean: Array
    scatter: Array

    @classmethod
    def empty(cls, num_columns: int) -> "Statistics":
        """The statistics of no rows.

        Args:
          num_columns: P.

        Returns:
          Zeros.
        """
        return cls(0, np.zeros(num_columns), np.zeros((num_columns, num_columns)))

    def with_rows(self, columns: Sequence[Array], buffer: Array) -> "Statistics":
        """The statistics after n more rows, with the update formula of Chan, Golub and LeVeque (1983).

        The formula multiplies differences from the current mean. This keeps the statistics accurate for columns with a
        mean far from 0.

        Args:
          columns: arrays `[n, .]` that together have P columns.
          buffer: `[n, P + 1]`, overwritten. Its last column is 1, so one matrix product also computes the sums.

        Returns:
          The statistics of N + n rows; NaN or infinite if rows are NaN or infinite.
        """
        if not len(buffer):
            return self
        with np.errstate(all="ignore"):
            known = self.mean if self.num_rows else np.concatenate([part[:1000].mean(axis=0) for part in columns])
            first = 0
            for part in columns:
                last = first + part.shape[1]
                np.subtract(part, known[first:last], out=buffer[:, first:last])
                first = last
            products = buffer.T @ buffer
            apart = products[-1, :-1] / len(buffer)
            scatter = products[:-1, :-1] - len(buffer) * np.outer(apart, apart)
            mean = known + apart
            return self.joined(Statistics(len(buffer), mean, scatter))

    def joined(self, other: "Statistics") -> "Statistics":
        """The statistics of two sets of rows together.

        Args:
          other: of the second set.

        Returns:
          Those of N + n rows.
        """
        if not (self.num_rows and other.num_rows):
            return self if self.num_rows else other
        with np.errstate(all="ignore"):
            num_rows, step = self.num_rows + other.num_rows, other.mean - self.mean
            between = self.num_rows * other.num_rows / num_rows * np.outer(step, step)
            mean = self.mean + step * (other.num_rows / num_rows)
            return Statistics(num_rows, mean, self.scatter + other.scatter + between)

    def equivalent_rows(self) -> Array:
        """2 P rows with the same means and covariances as all N rows.

        With the correlations `R = V diag(e) V^T` and the standard deviations s, the rows `mean +- sqrt(P e_j) s v_j`
        have the mean of the N rows. Their covariance is
        `1/(2P) sum_j 2 P e_j (s v_j)(s v_j)^T = diag(s) R diag(s)`, the covariance of the N rows. The mean squared
        error of a linear model depends only on means and covariances, so it is the same function of the parameters.
        Correlations are decomposed instead of covariances, because this is accurate also for columns of small numbers.

        Returns:
          `[2 P, P]`. A column that is constant, or a linear combination of other columns within rounding, stays so.
        """
        deviations = np.sqrt(np.maximum(np.diag(self.scatter), 0.0) / self.num_rows)
        # The mean of a constant column has a rounding error, so its rows seem to deviate by a few eps.
        varying = np.flatnonzero(deviations > 16 * np.finfo(np.float64).eps * np.abs(self.mean))
        scale = deviations[varying]
        correlations = self.scatter[np.ix_(varying, varying)] / (self.num_rows * np.outer(scale, scale))
        eigenvalues, vectors = np.linalg.eigh(correlations)
        # Eigenvalues within rounding of 0 belong to columns that are combinations of others.
        eigenvalues[eigenvalues < np.finfo(np.float64).eps * len(scale) * np.max(eigenvalues, initial=0.0)] = 0.0
        steps = np.zeros((len(self.mean), len(self.mean)))
        steps[np.ix_(np.arange(len(scale)), varying)] = (
            np.sqrt(len(self.mean) * eigenvalues)[:, None] * vectors.T * scale
        )
        return np.concatenate([self.mean + steps, self.mean - steps])
