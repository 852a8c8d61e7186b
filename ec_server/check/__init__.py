"""What the check tool test/test.py is made of: it reads an hour of one device and shows it."""
