"""Ratios, measured side by side in one run: `make bench`, or `make bench ARGS="append --rounds 5"`."""
