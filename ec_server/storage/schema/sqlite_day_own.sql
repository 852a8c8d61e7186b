-- The server's own tables of a day file. In a file of layout 1, existing tables stay as they are. Triggers
-- are created again.

-- What is known of a minute besides its digest. `writer` is the process that wrote all of it so far. It is
-- NULL if several did, or if digests are cached. While `writer` is set, ec_checksum has no digest of the
-- minute. `version` increases with every change of the minute's rows.
CREATE TABLE IF NOT EXISTS ec_minute (
    device_id     TEXT NOT NULL,
    ec_time       TEXT NOT NULL,          -- HHMM00
    writer        TEXT,
    version       INTEGER NOT NULL DEFAULT 1,
    row_count     INTEGER NOT NULL DEFAULT 0,
    row_samples   INTEGER NOT NULL DEFAULT 0,
    digest_cached INTEGER NOT NULL DEFAULT 0,  -- 1: the minute digest is cached
    state         TEXT,                   -- MinuteState; NULL: not compared since it was last written
    extra         INTEGER NOT NULL DEFAULT 0,
    conflicts     INTEGER NOT NULL DEFAULT 0,
    check_time    TEXT,
    check_times   INTEGER NOT NULL DEFAULT 0,
    packed        INTEGER NOT NULL DEFAULT 0,  -- 1: nothing is left to pack
    PRIMARY KEY (device_id, ec_time)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS ec_minute_notable ON ec_minute (device_id, ec_time)
    WHERE state IS NOT 'proven' OR extra > 0 OR conflicts > 0;
CREATE INDEX IF NOT EXISTS ec_minute_digest_absent ON ec_minute (ec_time) WHERE digest_cached = 0;

CREATE INDEX IF NOT EXISTS ec_minute_unpacked ON ec_minute (ec_time) WHERE packed = 0;

-- Packed seconds: rows moved from ec_consumption, in the format of docs/block-format.md.
CREATE TABLE IF NOT EXISTS ec_block (
    device_id    TEXT NOT NULL,
    ec_date      TEXT NOT NULL,
    ec_time      TEXT NOT NULL,           -- HHMMSS
    row_count    INTEGER NOT NULL,
    values_count INTEGER NOT NULL,        -- samples of the rows
    block        BLOB NOT NULL,
    PRIMARY KEY (device_id, ec_date, ec_time)
);

-- Blocks that could not be decoded, moved here when their second was repaired.
CREATE TABLE IF NOT EXISTS ec_block_replaced (
    device_id     TEXT NOT NULL,
    ec_date       TEXT NOT NULL,
    ec_time       TEXT NOT NULL,
    row_count     INTEGER NOT NULL,
    values_count  INTEGER NOT NULL,
    block         BLOB NOT NULL,
    replaced_time TEXT NOT NULL           -- ISO-8601 UTC
);

-- One line. New rows get rowids above last_rowid, which no rowid of a packed row exceeds.
CREATE TABLE IF NOT EXISTS ec_block_total (
    last_rowid  INTEGER NOT NULL,
    block_bytes INTEGER NOT NULL          -- of all blocks
);
INSERT INTO ec_block_total SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM ec_block_total);

-- Rows that were replaced by a repair or by a later message of the same key.
CREATE TABLE IF NOT EXISTS ec_replaced (
    device_id             TEXT NOT NULL,
    ec_date               TEXT NOT NULL,
    ec_time               TEXT NOT NULL,
    start_us              TEXT NOT NULL,
    end_us                TEXT NOT NULL,
    ec_consumption_values TEXT NOT NULL,
    values_count          INTEGER NOT NULL,
    values_checksum       TEXT NOT NULL,
    insert_time           TEXT NOT NULL,
    replaced_time         TEXT NOT NULL,  -- ISO-8601 UTC
    reason                TEXT NOT NULL   -- repair, message
);
CREATE INDEX IF NOT EXISTS ec_replaced_key ON ec_replaced (device_id, ec_time, start_us, end_us);

-- Ranges of minutes whose state in ec_minute is settled, so that a round need not read each line. If a
-- device has no line here, or one whose start is NULL, its ranges are computed from ec_minute.
CREATE TABLE IF NOT EXISTS ec_settled (
    device_id TEXT NOT NULL,
    start     INTEGER,                    -- epoch second of a minute
    stop      INTEGER                     -- half-open
);
CREATE INDEX IF NOT EXISTS ec_settled_device ON ec_settled (device_id);

-- One line. `generation` increases whenever the server records or removes a verdict, or a minute gets its first
-- row. progress.db keeps the latest one: a file with a lower one has reverted to an older state. Changes by
-- other programs do not increase it: an older file would look like the newest.
CREATE TABLE IF NOT EXISTS ec_file (
    generation INTEGER NOT NULL
);
INSERT INTO ec_file SELECT 0 WHERE NOT EXISTS (SELECT * FROM ec_file);

-- The last committed write of each writing process, so that its death can be accounted for.
CREATE TABLE IF NOT EXISTS ec_writer (
    writer    TEXT PRIMARY KEY,
    sequence  INTEGER NOT NULL,
    stored    INTEGER NOT NULL,
    duplicate INTEGER NOT NULL
) WITHOUT ROWID;

-- If another program changes rows, these triggers remove the digests and the proof of the minute. The
-- server's own connections do this themselves, for each group of rows, and run with triggers off.
DROP TRIGGER IF EXISTS ec_consumption_inserted;
DROP TRIGGER IF EXISTS ec_consumption_deleted;
DROP TRIGGER IF EXISTS ec_consumption_updated;
DROP TRIGGER IF EXISTS ec_block_inserted;
DROP TRIGGER IF EXISTS ec_block_deleted;
DROP TRIGGER IF EXISTS ec_block_updated;

CREATE TRIGGER ec_consumption_inserted AFTER INSERT ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', 1, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0,
            row_count = row_count + 1, row_samples = row_samples + excluded.row_samples;
    UPDATE ec_settled SET start = NULL WHERE device_id = NEW.device_id;
    -- SQLite gave it the table's last rowid plus one, and packed rows may have higher ones: give the row a
    -- rank of its own, above all.
    UPDATE ec_consumption
        SET rowid = (max(NEW.rowid, (SELECT last_rowid FROM ec_block_total)) / 1024 + 1) * 1024
        WHERE rowid = NEW.rowid AND (rowid <= (SELECT last_rowid FROM ec_block_total)
                                     OR rowid >= 1 << 50 AND rowid % 1024 <> 0);
    UPDATE ec_block_total SET last_rowid = (last_rowid / 1024 + 1) * 1024 WHERE last_rowid >= NEW.rowid;
END;

CREATE TRIGGER ec_consumption_deleted AFTER DELETE ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0,
            row_count = row_count - 1, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
    UPDATE ec_settled SET start = NULL WHERE device_id = OLD.device_id;
END;

CREATE TRIGGER ec_consumption_updated AFTER UPDATE ON ec_consumption BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0,
            row_count = row_count - 1, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', 1, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0,
            row_count = row_count + 1, row_samples = row_samples + excluded.row_samples;
    UPDATE ec_settled SET start = NULL WHERE device_id IN (OLD.device_id, NEW.device_id);
END;

-- The same for blocks.
CREATE TRIGGER ec_block_inserted AFTER INSERT ON ec_block BEGIN
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', NEW.row_count, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0, row_count = row_count + excluded.row_count,
            row_samples = row_samples + excluded.row_samples;
    UPDATE ec_block_total SET block_bytes = block_bytes + length(NEW.block);
    UPDATE ec_settled SET start = NULL WHERE device_id = NEW.device_id;
END;

CREATE TRIGGER ec_block_deleted AFTER DELETE ON ec_block BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0, row_count = row_count - OLD.row_count, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
    UPDATE ec_block_total SET block_bytes = block_bytes - length(OLD.block);
    UPDATE ec_settled SET start = NULL WHERE device_id = OLD.device_id;
END;

CREATE TRIGGER ec_block_updated AFTER UPDATE ON ec_block BEGIN
    DELETE FROM ec_checksum WHERE device_id = OLD.device_id AND ec_date = OLD.ec_date
        AND ((ec_type = 'S' AND ec_time = OLD.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(OLD.ec_time, 1, 4) || '00'));
    UPDATE ec_minute SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0, row_count = row_count - OLD.row_count, row_samples = row_samples - OLD.values_count
        WHERE device_id = OLD.device_id AND ec_time = substr(OLD.ec_time, 1, 4) || '00';
    UPDATE ec_block_total SET block_bytes = block_bytes - length(OLD.block);
    DELETE FROM ec_checksum WHERE device_id = NEW.device_id AND ec_date = NEW.ec_date
        AND ((ec_type = 'S' AND ec_time = NEW.ec_time)
             OR (ec_type = 'P' AND ec_time = substr(NEW.ec_time, 1, 4) || '00'));
    INSERT INTO ec_minute (device_id, ec_time, row_count, row_samples)
        VALUES (NEW.device_id, substr(NEW.ec_time, 1, 4) || '00', NEW.row_count, NEW.values_count)
        ON CONFLICT DO UPDATE SET writer = NULL, version = version + 1, digest_cached = 0, state = NULL,
            packed = 0, row_count = row_count + excluded.row_count,
            row_samples = row_samples + excluded.row_samples;
    UPDATE ec_block_total SET block_bytes = block_bytes + length(NEW.block);
    UPDATE ec_settled SET start = NULL WHERE device_id IN (OLD.device_id, NEW.device_id);
END;
