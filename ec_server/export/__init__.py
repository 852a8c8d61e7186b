"""Takes stored samples out of any engine: as files, as streams, and as figures of what is there."""
