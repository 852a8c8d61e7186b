"""The parts of the check tool test/test.py, which reads and shows an hour of one device."""
