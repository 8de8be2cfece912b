"""Side-by-side timings: every figure is a ratio with its peer, measured in the same run."""
