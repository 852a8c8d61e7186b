"""The proof that the database equals the meters.

Pure, bytes and results in, events and steps out:

    frames, frame_table     the frames as values; what each is called and holds, who sends it when
    field_forms, wire       the forms of their values; frames as bytes
    session                 one connection for either side
    steps                   what a round may ask of whoever drives it
    round, minute_repair    which minutes differ; one of them made right
    repair_plan             from two texts of a second to ranges to ask for and batches to write

The shell around it, sockets, threads and files:

    server, peer            all connections; one connection
    store_threads           the steps of many rounds in a few threads, in turn
    keeper, audit           digests and retention in the background; audits on request
"""
