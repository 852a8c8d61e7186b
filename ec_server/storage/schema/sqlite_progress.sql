-- What the day files cannot hold: the devices, how far each is proven, and minutes without rows that
-- the device has nothing of either. Times are epoch seconds of minutes, moments epoch microseconds.

CREATE TABLE device (
    device_id        TEXT PRIMARY KEY,
    first_seen_us    INTEGER NOT NULL,
    last_seen_us     INTEGER NOT NULL,
    verified_from    INTEGER,
    verified_through INTEGER
) WITHOUT ROWID;

CREATE TABLE empty_range (
    device_id TEXT NOT NULL,
    start     INTEGER NOT NULL,
    stop      INTEGER NOT NULL,           -- half-open
    PRIMARY KEY (device_id, start)
) WITHOUT ROWID;

-- Days that have had a file. One that is gone without retention having removed it is unproven again.
CREATE TABLE known_day (
    day INTEGER PRIMARY KEY
);
