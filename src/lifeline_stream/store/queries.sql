-- alarms --
SELECT a.alarm_id, a.channel, a.asset, coalesce(s.name, a.asset), a.county, a.domain, a.sensor, a.unit, a.detector, a.class,
       a.severity, a.peak_severity, a.active, a.onset, a.raised_at, a.cleared_at, a.value, a.limit_value,
       a.found_late, a.withdrawn, a.why, a.source, a.action
FROM alarm_v a LEFT JOIN asset s ON s.asset_id = a.asset
WHERE ($1::boolean IS NULL OR a.active = $1) AND ($2::integer IS NULL OR a.severity >= $2)
  AND ($3::text IS NULL OR a.domain = $3) AND ($4::text IS NULL OR a.county = $4)
ORDER BY a.raised_at DESC, a.alarm_id LIMIT $5 OFFSET $6;

-- count_alarms --
SELECT count(*) FROM alarm_v a
WHERE ($1::boolean IS NULL OR a.active = $1) AND ($2::integer IS NULL OR a.severity >= $2)
  AND ($3::text IS NULL OR a.domain = $3) AND ($4::text IS NULL OR a.county = $4);

-- open_by_severity --
SELECT severity, count(*) FROM alarm_v WHERE active GROUP BY severity ORDER BY severity;

-- unknown_channels --
SELECT source, detail, sum(n_readings)::bigint, max(received_at)
FROM reject WHERE reason = 'unknown_channel' GROUP BY source, detail ORDER BY max(received_at) DESC, detail;

-- open_by_domain --
SELECT domain, count(*) FROM alarm_v WHERE active GROUP BY domain;

-- raised_by_domain --
SELECT c.domain, count(*) FROM alarm a JOIN channel c USING (channel) WHERE a.group_seq > $1 GROUP BY c.domain;

-- rejected_by_source --
SELECT source, sum(n_readings)::bigint FROM reject WHERE group_seq > $1 GROUP BY source;
