"""A reference meter: what a device maker reads, and what the demo and the tests run."""
