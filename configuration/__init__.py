"""The configuration file, and every option in one place."""
