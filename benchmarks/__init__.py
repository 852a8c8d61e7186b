"""What measures itself against a limit or a peer, in one run: ``python -m benchmarks``."""
