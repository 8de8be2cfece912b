"""Functions with derivatives of their own: whether the rule is right, and if not, which mistake was made."""
