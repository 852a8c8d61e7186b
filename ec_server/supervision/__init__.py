"""Starts, watches and stops the server's processes."""
