-- One UTC day of every device. The first two tables are the original design's; the others are the
-- server's own. Readable with any SQLite tool while the server runs; see docs/storage.md.

CREATE TABLE ec_consumption (
    device_id             TEXT NOT NULL,
    ec_date               TEXT NOT NULL,  -- YYYYMMDD, UTC
    ec_time               TEXT NOT NULL,  -- HHMMSS, UTC
    start_us              TEXT NOT NULL,  -- six digits: first microsecond of the batch
    end_us                TEXT NOT NULL,  -- six digits: last microsecond of the batch
    ec_consumption_values TEXT NOT NULL,  -- UUUUUU,VALUE joined by ;
    values_count          INTEGER NOT NULL,
    values_checksum       TEXT NOT NULL,  -- MD5 hex of ec_consumption_values
    insert_time           TEXT NOT NULL,  -- ISO-8601 UTC; rows of one second rank by rowid
    PRIMARY KEY (device_id, ec_date, ec_time, start_us, end_us)
);

CREATE TABLE ec_checksum (
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

-- What is known of a minute besides its digest. `writer` is the process that wrote all of it so far;
-- NULL: several did, or its digests are cached. While `writer` is set nothing of the minute stands
-- in ec_checksum. `version` rises with every change of the minute's rows.
CREATE TABLE ec_minute (
    device_id   TEXT NOT NULL,
    ec_time     TEXT NOT NULL,            -- HHMM00
    writer      TEXT,
    version     INTEGER NOT NULL DEFAULT 1,
    row_count   INTEGER NOT NULL DEFAULT 0,
    row_samples INTEGER NOT NULL DEFAULT 0,
    sealed      INTEGER NOT NULL DEFAULT 0,  -- 1: the minute digest is cached
    state       TEXT,                     -- proven, unconfirmable, unresolved; NULL: not compared since
    extra       INTEGER NOT NULL DEFAULT 0,
    conflicts   INTEGER NOT NULL DEFAULT 0,
    check_time  TEXT,
    check_times INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (device_id, ec_time)
) WITHOUT ROWID;

CREATE INDEX ec_minute_notable ON ec_minute (device_id, ec_time)
    WHERE state IS NOT 'proven' OR extra > 0 OR conflicts > 0;
CREATE INDEX ec_minute_unsealed ON ec_minute (ec_time) WHERE sealed = 0;

-- The last committed write of each writing process, so that its death can be accounted for.
CREATE TABLE ec_writer (
    writer    TEXT PRIMARY KEY,
    sequence  INTEGER NOT NULL,
    stored    INTEGER NOT NULL,
    duplicate INTEGER NOT NULL
) WITHOUT ROWID;

-- Any other program's change of the rows takes away the digests and the proof of the minute. The
-- server's own connections do this themselves, group by group, and switch triggers off.
CREATE TRIGGER ec_consumption_inserted AFTER INSERT ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', 1, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, sealed = 0, state = NULL,
            row_count = row_count + 1, row_samples = row_samples + excluded.row_samples;
END;

CREATE TRIGGER ec_consumption_deleted AFTER DELETE ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, sealed = 0, state = NULL,
            row_count = row_count - 1, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
END;

CREATE TRIGGER ec_consumption_updated AFTER UPDATE ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, sealed = 0, state = NULL,
            row_count = row_count - 1, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', 1, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, sealed = 0, state = NULL,
            row_count = row_count + 1, row_samples = row_samples + excluded.row_samples;
END;
