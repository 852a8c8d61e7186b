"""Exports stored samples from any engine, as files, streams and summaries."""
