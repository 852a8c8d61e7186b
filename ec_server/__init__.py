"""The parts of the server's programs: ingest, storage, synchronization, supervision, status, and more."""
