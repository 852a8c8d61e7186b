"""The base of everything else (time, log, errors, values), and adapters to SIP and Cassandra."""
