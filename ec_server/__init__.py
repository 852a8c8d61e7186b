"""What the three entry files are made of: ingest, storage, synchronization, supervision, status."""
