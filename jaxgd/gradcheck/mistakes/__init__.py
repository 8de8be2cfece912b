"""Which mistake a wrong gradient looks like: explanations in the order of a table, each confirmed at other points."""

from jaxgd.gradcheck.mistakes.study import Case
from jaxgd.gradcheck.mistakes.table import MISTAKES, explain

__all__ = ["MISTAKES", "Case", "explain"]
