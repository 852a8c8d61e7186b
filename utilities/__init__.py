"""What everything is built on (time, log, errors, values), and adapters to the outside: SIP, Cassandra."""
