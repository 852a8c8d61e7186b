"""What everything stands on (time, log, errors, values), and adapters to what is outside: SIP, Cassandra."""
