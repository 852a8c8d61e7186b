"""Exports stored samples from any engine: as files, as streams, and as summaries."""
