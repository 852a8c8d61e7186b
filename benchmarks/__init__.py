"""Compares the server with limits and competitors, each within one run: ``python -m benchmarks``."""
