"""Questions with known answers, each one file."""
