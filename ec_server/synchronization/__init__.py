"""Proves that the database holds what the meters recorded.

Pure modules, which take bytes and results and return events and steps:

    frames, frame_table     the frames as values; their names, keys, and who may send which when
    field_forms, wire       encoding of their values; encoding of whole frames
    session                 one connection for either side
    server_conversation     the server's side of a connection: handshake, deadlines, ids, pings
    steps                   what a round may ask of its driver
    coverage, round, round_state
                            which minutes to ask about; which of them differ, and what is settled
    minute_repair           the repair of one minute that differs
    repair_plan             compares two texts of a second: what to ask for, and which batches to write
    payload_memory, unidentified, troubles
                            limits, and what prevents the rounds of which device

The shell around them, with sockets, threads and files:

    server, listening       all connections and what they share; the listening port
    peer, tls_channel, handshake_turns
                            the bytes of one connection
    device_link, device_rounds
                            an identified device's questions and answers; its rounds and audits
    store_threads           runs the steps of many rounds in a few threads, in turn
    keeper, audit           digests and retention in the background; audits on request
"""
