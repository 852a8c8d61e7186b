-- One UTC day of every device. The first two tables are the original design's; the others are the
-- server's own. Readable with any SQLite tool while the server runs; see docs/storage.md.

CREATE TABLE IF NOT EXISTS ec_consumption (
    device_id             TEXT NOT NULL,
    ec_date               TEXT NOT NULL,  -- YYYYMMDD, UTC
    ec_time               TEXT NOT NULL,  -- HHMMSS, UTC
    start_us              TEXT NOT NULL,  -- six digits: first microsecond of the batch
    end_us                TEXT NOT NULL,  -- six digits: last microsecond of the batch
    ec_consumption_values TEXT NOT NULL,  -- UUUUUU,VALUE joined by ;
    values_count          INTEGER NOT NULL,
    values_checksum       TEXT NOT NULL,  -- MD5 hex of ec_consumption_values
    insert_time           TEXT NOT NULL,  -- ISO-8601 UTC
    PRIMARY KEY (device_id, ec_date, ec_time, start_us, end_us)
    -- The rowid is the order of insertion, rank * 1024 + n: see sqlite_rank.py.
);

CREATE TABLE IF NOT EXISTS ec_checksum (
    device_id       TEXT NOT NULL,
    ec_date         TEXT NOT NULL,
    ec_time         TEXT NOT NULL,        -- HHMMSS of a second, HHMM00 of a minute
    ec_type         TEXT NOT NULL,        -- S a second, P a minute
    values_count    INTEGER NOT NULL,
    values_checksum TEXT NOT NULL,
    check_time      TEXT,                 -- last comparison with the device
    check_times     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, ec_date, ec_time, ec_type)
) WITHOUT ROWID;

-- sqlite_day_own.sql creates the server's own tables, in new files and in files of layout 1.
