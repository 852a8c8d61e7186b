"""The proof that the database equals the meters.

Pure, bytes and results in, events and steps out:

    frames, frame_table     the frames as values; what each is called and holds, who sends it when
    field_forms, wire       the forms of their values; frames as bytes
    session                 one connection for either side
    server_conversation     the server's side of it: handshake, deadlines, ids, pings
    steps                   what a round may ask of its driver
    coverage, round, round_state
                            which minutes to ask about; which of them differ, and what is settled
    minute_repair           one of them made right
    repair_plan             from two texts of a second to ranges to ask for and batches to write
    payload_memory, unidentified, troubles
                            bounds, and what prevents which device's rounds

The shell around it, sockets, threads and files:

    server, listening       all connections and what they share; the port
    peer, tls_channel, handshake_turns
                            one connection's bytes
    device_link, device_rounds
                            an identified device's questions and answers; its rounds and audits
    store_threads           the steps of many rounds in a few threads, in turn
    keeper, audit           digests and retention in the background; audits on request
"""
