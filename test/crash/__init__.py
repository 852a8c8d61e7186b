"""Crash replay: what the storage engine writes is recorded, and every way to lose the rest of it is tried."""
