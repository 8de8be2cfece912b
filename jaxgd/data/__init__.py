"""Load, check and standardise data on the host, and make a Batch of them.

All functions compute in NumPy and float64. The arrays are cast to the dtype of the run once, when they are put on the
device. If the data contain a mistake, a `DataError` is raised, whose one-line message names the file, the line and the
column.
"""

from jaxgd.data.classes import codes_note
from jaxgd.data.dataset import Array as Array
from jaxgd.data.dataset import DataError, Dataset, are_probabilities, as_labels, short_name, split, to_batch
from jaxgd.data.processes import gather
from jaxgd.data.readers import BUNDLED, load, new_inputs
from jaxgd.data.scaling import Standardization, standardization, standardize
from jaxgd.data.shares import equivalent_inputs, share, with_targets
from jaxgd.data.squares import least_squares
from jaxgd.data.table import did_you_mean

__all__ = [
    "BUNDLED",
    "DataError",
    "Dataset",
    "Standardization",
    "are_probabilities",
    "as_labels",
    "codes_note",
    "did_you_mean",
    "equivalent_inputs",
    "gather",
    "least_squares",
    "load",
    "new_inputs",
    "share",
    "short_name",
    "split",
    "standardization",
    "standardize",
    "to_batch",
    "with_targets",
]
