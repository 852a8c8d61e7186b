"""Measurements against limits and competitors, each within one run: ``python -m benchmarks``."""
