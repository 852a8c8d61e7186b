-- What the day files cannot hold: the devices, where the coverage of each begins, and minutes of which
-- neither side has anything. No proof: that is in the day files, with the rows. Minutes are epoch seconds,
-- columns whose name ends in _us are epoch microseconds.

CREATE TABLE IF NOT EXISTS device (
    device_id     TEXT PRIMARY KEY,
    first_seen_us INTEGER NOT NULL,
    last_seen_us  INTEGER NOT NULL,
    covered_from  INTEGER,
    reopened      TEXT NOT NULL DEFAULT ''  -- minutes recorded again, to be compared: START-STOP by comma
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS empty_range (
    device_id TEXT NOT NULL,
    start     INTEGER NOT NULL,
    stop      INTEGER NOT NULL,           -- half-open
    PRIMARY KEY (device_id, start)
) WITHOUT ROWID;

-- Days that have had a file, and the latest generation of each (ec_file in the day file). If a file has a
-- lower generation, or is missing although retention has not removed it, it has reverted to an older state
-- and its proof does not count. A negative generation marks a file that is missing: ignore the sign.
CREATE TABLE IF NOT EXISTS known_day (
    day        INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0
);

-- Files and minutes with damage, until they are proven again.
CREATE TABLE IF NOT EXISTS damage (
    file       TEXT NOT NULL,             -- its name in storage.path
    device_id  TEXT NOT NULL,             -- empty: the whole file
    minute     INTEGER NOT NULL,          -- 0: the whole file
    detail     TEXT NOT NULL,
    noticed_us INTEGER NOT NULL,
    PRIMARY KEY (file, device_id, minute)
) WITHOUT ROWID;
