"""The parts of the check tool test/test.py: it reads an hour of one device and shows it."""
