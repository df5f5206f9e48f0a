-- guard --
UPDATE shard_state SET group_seq = $3 WHERE shard = $1 AND epoch = $2 AND group_seq = $3 - 1 RETURNING true;

-- token --
SELECT token FROM commit_group WHERE group_seq = $1;

-- add_group --
INSERT INTO commit_group (group_seq, shard, token, now_us, watch_from_us, declaration_hash, n_readings, n_samples, from_us, to_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- add_rejects --
INSERT INTO reject (received_at, reason, detail, source, payload, n_readings, shard, group_seq)
SELECT time_of($6::bigint), reason, detail, source, payload, n_readings, $7::text, $8::bigint
FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::integer[]) AS r (reason, detail, source, payload, n_readings);

-- add_outbox --
INSERT INTO outbox (id, alarm_id, at, body, state, due_at, delivered_at)
SELECT id, alarm_id, time_of(at_us), body, state, time_of($6::bigint),
       CASE WHEN state = 'delivered' THEN time_of($6::bigint) END
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::text[]) AS o (id, alarm_id, at_us, body, state)
ON CONFLICT (id) DO NOTHING;

-- save_state --
INSERT INTO engine_state (group_seq, shard, declaration_hash, state) VALUES ($1, $2, $3, $4);

-- forget_states --
DELETE FROM engine_state WHERE shard = $1 AND group_seq < (
    SELECT group_seq FROM engine_state WHERE shard = $1 ORDER BY group_seq DESC OFFSET 1 LIMIT 1
);

-- forget_groups --
DELETE FROM commit_group WHERE group_seq > $1 AND group_seq < $2;
