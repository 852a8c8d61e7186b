"""A reference meter, for developers of devices to read, and for the demo and the tests to run."""
