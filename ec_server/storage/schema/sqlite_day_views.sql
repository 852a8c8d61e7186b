-- Views through which the server reads its own lines; it writes to the tables. A line whose key is unreadable,
-- because of damage or another program, is left out. An unreadable state or time is NULL.

CREATE TEMP VIEW IF NOT EXISTS minute_line AS SELECT
    device_id, ec_time, version, extra, conflicts, digest_cached, packed, state,
    CAST(row_count AS INTEGER) AS row_count,
    CAST(row_samples AS INTEGER) AS row_samples,
    CASE WHEN state NOT GLOB '*[^a-z]*' THEN state END AS readable_state,
    CASE WHEN check_time NOT GLOB '*[^-0-9T:.+]*' THEN check_time END AS check_time,
    CAST(check_times AS INTEGER) AS check_times
FROM main.ec_minute
WHERE device_id NOT GLOB '*[^!-~]*' AND typeof(device_id) = 'text'
    AND ec_time GLOB '[0-2][0-9][0-5][0-9]00' AND +ec_time < '24';

CREATE TEMP VIEW IF NOT EXISTS digest_line AS SELECT
    device_id, ec_date, ec_time, ec_type, values_checksum,
    CAST(values_count AS INTEGER) AS values_count,
    CASE WHEN check_time NOT GLOB '*[^-0-9T:.+]*' THEN check_time END AS check_time,
    CAST(check_times AS INTEGER) AS check_times
FROM main.ec_checksum
WHERE ec_type IN ('S', 'P') AND values_checksum NOT GLOB '*[^0-9a-f]*'
    AND ec_time GLOB '[0-2][0-9][0-5][0-9][0-5][0-9]' AND +ec_time < '24';
