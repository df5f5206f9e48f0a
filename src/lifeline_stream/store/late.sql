-- create_staging --
CREATE TEMP TABLE IF NOT EXISTS staged_reading (ord integer, channel integer, ts timestamptz) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS staged_waveform ON COMMIT DELETE ROWS AS SELECT * FROM waveform WITH NO DATA;

-- stored_readings --
SELECT s.ord, r.value
FROM staged_reading s
CROSS JOIN LATERAL (
    SELECT value FROM reading r
    WHERE r.channel = s.channel AND r.ts = s.ts AND r.ts BETWEEN time_of($1) AND time_of($2)
    ORDER BY r.group_seq LIMIT 1
) r;

-- stored_waveforms --
SELECT s.channel, us_of(s.t0) AS t0_us, s.n, w.same
FROM staged_waveform s
CROSS JOIN LATERAL (
    SELECT w.samples = s.samples AS same FROM waveform w
    WHERE w.channel = s.channel AND w.t0 = s.t0 AND w.n = s.n AND w.t0 BETWEEN time_of($1) AND time_of($2)
    ORDER BY w.group_seq LIMIT 1
) w;

-- empty_staged_reading --
DELETE FROM staged_reading;

-- empty_staged_waveform --
DELETE FROM staged_waveform;
