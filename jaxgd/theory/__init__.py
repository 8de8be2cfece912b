"""What to expect before running: closed forms, Taylor expansions, curvature."""

from jaxgd.theory import closed_form, curvature, taylor

__all__ = ["closed_form", "curvature", "taylor"]
