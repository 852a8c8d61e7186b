"""Thin adapters to what is outside: PJSUA2, Cassandra, MD5."""
