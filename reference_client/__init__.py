"""A reference meter: an example for developers of devices, also used by the demo and the tests."""
