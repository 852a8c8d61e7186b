"""Compact blocks: one second of one device, exact to the last byte; pure, and unaware of any engine."""
