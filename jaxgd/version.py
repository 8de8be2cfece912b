"""The version, in one place: the package and the command read it here, and so does the build."""

__version__ = "0.1.0"
