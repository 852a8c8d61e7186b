"""The counters of every process: one mapped page per worker, and the names of all figures."""
