"""Deterministic simulation: years of a server and its meters under faults, in one process, on one clock."""
