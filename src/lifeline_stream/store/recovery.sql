-- store_declaration --
INSERT INTO declaration (hash, body) VALUES ($1, $2) ON CONFLICT (hash) DO NOTHING;

-- load_declaration --
SELECT body FROM declaration WHERE hash = $1;

-- latest_state --
SELECT group_seq, declaration_hash, state FROM engine_state WHERE shard = $1 ORDER BY group_seq DESC LIMIT 1;

-- shard_no --
SELECT shard_no FROM shard_state WHERE shard = $1;

-- groups --
SELECT group_seq, now_us, watch_from_us, declaration_hash, n_readings, n_samples, from_us, to_us
FROM (
    SELECT *, sum(n_readings + n_samples) OVER (ORDER BY group_seq) - (n_readings + n_samples) AS n_before
    FROM (SELECT * FROM commit_group WHERE group_seq > $1 AND group_seq < $2 ORDER BY group_seq LIMIT $4) first
) summed
WHERE n_before < $3
ORDER BY group_seq;

-- readings --
SELECT group_seq, channel, ts, value, quality FROM reading
WHERE group_seq BETWEEN $1 AND $2 AND ts BETWEEN time_of($3) AND time_of($4)
ORDER BY group_seq, channel, ts;

-- waveforms --
SELECT group_seq, channel, t0, rate_hz, quality, samples FROM waveform
WHERE group_seq BETWEEN $1 AND $2 AND t0 BETWEEN time_of($3) AND time_of($4)
ORDER BY group_seq, channel, t0;

-- active_alarms --
SELECT a.alarm_id, a.channel, coalesce(c.id, ''), a.detector, us_of(a.onset), a.severity, a.class, a.found_late
FROM alarm a LEFT JOIN channel c USING (channel)
WHERE a.active AND a.shard = $1
ORDER BY a.channel, a.detector, a.onset;

-- newest --
SELECT r.group_seq, c.channel, r.ts, r.value, r.quality
FROM channel c
CROSS JOIN LATERAL (
    SELECT ts, value, quality, group_seq FROM reading
    WHERE channel = c.channel AND (quality & 64) = 0 AND group_seq > $1 AND group_seq < $2
    ORDER BY ts DESC LIMIT 1
) r
ORDER BY c.channel;
