-- progress.db as version 1.0.0 wrote it.
BEGIN TRANSACTION;
CREATE TABLE device (
    device_id        TEXT PRIMARY KEY,
    first_seen_us    INTEGER NOT NULL,
    last_seen_us     INTEGER NOT NULL,
    verified_from    INTEGER,
    verified_through INTEGER
) WITHOUT ROWID;
INSERT INTO "device" VALUES('m',1772366400000000,1772366400000000,1772366400,1772366640);
CREATE TABLE empty_range (
    device_id TEXT NOT NULL,
    start     INTEGER NOT NULL,
    stop      INTEGER NOT NULL,           -- half-open
    PRIMARY KEY (device_id, start)
) WITHOUT ROWID;
INSERT INTO "empty_range" VALUES('m',1772366520,1772366580);
CREATE TABLE known_day (
    day INTEGER PRIMARY KEY
);
INSERT INTO "known_day" VALUES(1772323200);
COMMIT;
PRAGMA user_version = 1;
