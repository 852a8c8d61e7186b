-- ec-20260301.sqlite as version 1.0.0 wrote it.
BEGIN TRANSACTION;
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
INSERT INTO "ec_checksum" VALUES('m','20260301','120000','P',5,'8e333f5b72bf7099c9346e2498f8acb4','1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_checksum" VALUES('m','20260301','120000','S',5,'a7fdf22dc936eb10ba8be1d27055a5e3','1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_checksum" VALUES('m','20260301','120100','P',4,'7f5f6dd39cd76ffa26926f3bfde83036','1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_checksum" VALUES('m','20260301','120100','S',4,'2109a3d55d904f2c50fb392f872d6dd3','1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_checksum" VALUES('m','20260301','120300','P',4,'9abd96107efb90d7d5d07ebc7932848c','1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_checksum" VALUES('m','20260301','120300','S',4,'2109a3d55d904f2c50fb392f872d6dd3','1970-01-01T00:00:05.000000+00:00',1);
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
INSERT INTO "ec_consumption" VALUES('m','20260301','120000','000000','000030','000000,1.5;000010,1.5;000020,1.5;000030,1.5',4,'2109a3d55d904f2c50fb392f872d6dd3','2026-11-28T08:58:31.441480+00:00');
INSERT INTO "ec_consumption" VALUES('m','20260301','120000','000010','000015','000010,2;000015,2',2,'507458439f8b408476c1aa1982c2eed4','2026-11-28T08:58:31.519092+00:00');
INSERT INTO "ec_consumption" VALUES('m','20260301','120100','000000','000030','000000,1.5;000010,1.5;000020,1.5;000030,1.5',4,'2109a3d55d904f2c50fb392f872d6dd3','2026-11-28T08:58:31.519458+00:00');
INSERT INTO "ec_consumption" VALUES('m','20260301','120300','000000','000030','000000,1.5;000010,1.5;000020,1.5;000030,1.5',4,'2109a3d55d904f2c50fb392f872d6dd3','2026-11-28T08:58:31.519742+00:00');
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
INSERT INTO "ec_minute" VALUES('m','120000',NULL,2,2,6,1,'proven',1,0,'1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_minute" VALUES('m','120100',NULL,1,1,4,1,'unresolved',0,0,'1970-01-01T00:00:05.000000+00:00',1);
INSERT INTO "ec_minute" VALUES('m','120300',NULL,1,1,4,1,'proven',0,0,'1970-01-01T00:00:05.000000+00:00',1);
CREATE TABLE ec_writer (
    writer    TEXT PRIMARY KEY,
    sequence  INTEGER NOT NULL,
    stored    INTEGER NOT NULL,
    duplicate INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX ec_minute_notable ON ec_minute (device_id, ec_time)
    WHERE state IS NOT 'proven' OR extra > 0 OR conflicts > 0;
CREATE INDEX ec_minute_unsealed ON ec_minute (ec_time) WHERE sealed = 0;
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
COMMIT;
PRAGMA user_version = 1;
