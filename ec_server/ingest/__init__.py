"""Turns SIP MESSAGEs into committed rows."""
