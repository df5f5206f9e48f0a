-- claim --
UPDATE outbox SET due_at = time_of($3), attempts = attempts + 1
WHERE seq IN (
    SELECT seq FROM outbox d
    WHERE d.state = 'due' AND d.due_at <= time_of($2)
      AND NOT EXISTS (SELECT FROM disabled_target WHERE target = $4)
      AND NOT EXISTS (
          SELECT FROM outbox e WHERE e.alarm_id = d.alarm_id AND e.seq < d.seq AND e.state IN ('due', 'held')
      )
    ORDER BY d.due_at, d.seq LIMIT $1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, alarm_id, body, attempts - 1, us_of(at);

-- mark --
UPDATE outbox SET
    state = $2, result = $4, due_at = time_of($3),
    delivered_at = CASE WHEN $2 = 'delivered' THEN time_of($3) END
WHERE id = $1 AND state <> 'delivered';

-- reconcile --
UPDATE outbox SET state = 'delivered', delivered_at = time_of($2), result = 'straight from memory'
WHERE id = ANY($1) AND state <> 'delivered';

-- known --
SELECT id FROM outbox WHERE id = ANY($1);

-- skip_ended --
UPDATE outbox o SET state = 'skipped', result = 'the alarm ended while its channel was behind'
FROM alarm a
WHERE a.alarm_id = o.alarm_id AND NOT a.active AND (
    o.state = 'held'
    OR (o.state = 'due' AND o.attempts = 0
        AND EXISTS (SELECT FROM outbox h WHERE h.alarm_id = o.alarm_id AND h.state = 'held')
        AND NOT EXISTS (SELECT FROM outbox t WHERE t.alarm_id = o.alarm_id AND (t.state = 'delivered' OR t.attempts > 0)))
)
RETURNING o.seq;

-- release_current --
UPDATE outbox o SET state = 'due', due_at = time_of($1)
FROM alarm a
WHERE a.alarm_id = o.alarm_id AND a.active AND o.state = 'held' AND (
    EXISTS (SELECT FROM reading r WHERE r.channel = a.channel AND r.ts >= time_of($2))
    OR EXISTS (SELECT FROM waveform w WHERE w.channel = a.channel AND w.t0 >= time_of($2))
)
RETURNING o.seq;

-- backlog --
SELECT count(*) FILTER (WHERE state = 'due'), count(*) FILTER (WHERE state = 'held'),
       us_of(min(at) FILTER (WHERE state = 'due'))
FROM outbox WHERE state IN ('due', 'held');

-- disable --
INSERT INTO disabled_target (target, disabled_at, reason) VALUES ($1, time_of($2), $3)
ON CONFLICT (target) DO UPDATE SET disabled_at = excluded.disabled_at, reason = excluded.reason;

-- enable --
DELETE FROM disabled_target WHERE target = $1;

-- why_disabled --
SELECT reason FROM disabled_target WHERE target = $1;
