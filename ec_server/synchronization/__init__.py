"""The proof that the database equals the meters: protocol, round and repair, without sockets."""
