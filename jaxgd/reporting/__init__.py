"""What is kept of a run: its folder, and the fitted model that can be loaded again."""

from jaxgd.reporting.folder import environment, to_json, write_run, write_sweep
from jaxgd.reporting.saved import Fitted, load, save

__all__ = ["Fitted", "environment", "load", "save", "to_json", "write_run", "write_sweep"]
