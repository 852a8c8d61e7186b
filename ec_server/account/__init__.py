"""What every process counts: one mapped page a worker, and the names of all figures."""
