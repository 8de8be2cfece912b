"""Write the folder of a run, and save and load the fitted model."""

from jaxgd.reporting.folder import environment, to_json, write_run, write_sweep
from jaxgd.reporting.saved import Fitted, load, save

__all__ = ["Fitted", "environment", "load", "save", "to_json", "write_run", "write_sweep"]
