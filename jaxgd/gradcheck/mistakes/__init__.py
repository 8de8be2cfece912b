"""Which mistake a wrong gradient looks like: explanations in the order of a table, each confirmed at other points."""

from jaxgd.gradcheck.mistakes.study import EXACT, Case
from jaxgd.gradcheck.mistakes.table import MISTAKES, explain

__all__ = ["EXACT", "MISTAKES", "Case", "explain"]
