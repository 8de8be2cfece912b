"""Gradient checkers held against mistakes that were planted."""
