-- enter_events --
INSERT INTO alarm_event (event_id, alarm_id, kind, at, severity, value, limit_value, late, group_seq)
SELECT event_id, alarm_id, kind, time_of(at_us), severity, value, limit_value, late, $9::bigint
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::smallint[], $6::float8[], $7::float8[], $8::boolean[])
  AS e (event_id, alarm_id, kind, at_us, severity, value, limit_value, late)
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id;

-- enter_trial --
INSERT INTO trial_event
    (event_id, alarm_id, kind, at, onset, channel, detector, severity, value, limit_value, late, group_seq)
SELECT event_id, alarm_id, kind, time_of(at_us), time_of(onset_us), channel, detector, severity, value, limit_value, late,
       $12::bigint
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::integer[], $7::text[], $8::smallint[],
            $9::float8[], $10::float8[], $11::boolean[])
  AS e (event_id, alarm_id, kind, at_us, onset_us, channel, detector, severity, value, limit_value, late)
ON CONFLICT (event_id) DO NOTHING;

-- change_alarms --
UPDATE alarm a SET
    severity      = c.severity,
    peak_severity = greatest(a.peak_severity, c.peak),
    value         = coalesce(c.value, a.value),
    limit_value   = coalesce(c.limit_value, a.limit_value),
    active        = a.active AND c.ended_us IS NULL,
    cleared_at    = coalesce(time_of(c.ended_us), a.cleared_at),
    withdrawn     = a.withdrawn OR c.withdrawn
FROM unnest($1::text[], $2::boolean[], $3::smallint[], $4::smallint[], $5::float8[], $6::float8[], $7::bigint[], $8::boolean[])
  AS c (alarm_id, late, severity, peak, value, limit_value, ended_us, withdrawn)
WHERE a.alarm_id = c.alarm_id AND a.found_late = c.late
RETURNING a.alarm_id;

-- supersede --
UPDATE alarm a SET active = false, withdrawn = true, cleared_at = time_of(n.at_us)
FROM unnest($1::text[], $2::integer[], $3::text[], $4::bigint[]) AS n (alarm_id, channel, detector, at_us)
WHERE a.channel = n.channel AND a.detector = n.detector AND a.active AND NOT a.found_late AND a.alarm_id <> n.alarm_id
RETURNING a.alarm_id, a.channel, a.detector, a.severity, a.value, a.limit_value, n.at_us;

-- raise_alarms --
INSERT INTO alarm (alarm_id, shard, channel, detector, class, severity, peak_severity, active, onset, raised_at, cleared_at,
                   value, limit_value, found_late, withdrawn, why, source, action, pack_hash, group_seq)
SELECT alarm_id, $18::text, channel, detector, class, severity, peak, ended_us IS NULL, time_of(onset_us), time_of(at_us),
       time_of(ended_us), value, limit_value, late, withdrawn, why, source, action, pack_hash, $19::bigint
FROM unnest($1::text[], $2::integer[], $3::text[], $4::smallint[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::float8[], $10::float8[], $11::boolean[], $12::boolean[], $13::text[], $14::text[], $15::text[], $16::text[],
            $17::text[])
  AS r (alarm_id, channel, detector, severity, peak, onset_us, at_us, ended_us, value, limit_value, late, withdrawn,
        class, why, source, action, pack_hash)
ON CONFLICT (alarm_id) DO NOTHING;
