"""What every process counts: one mapped page per worker, and the names of all figures."""
