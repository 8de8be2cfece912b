"""Experiments whose results are known from theory, one file each."""
