"""The parts of the three entry files: ingest, storage, synchronization, supervision, status."""
