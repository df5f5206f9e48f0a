-- register --
INSERT INTO shard_state (shard)
SELECT $1 WHERE NOT EXISTS (SELECT FROM shard_state WHERE shard = $1)
ON CONFLICT DO NOTHING;

-- read_shard --
SELECT shard_no, epoch, group_seq, holder FROM shard_state WHERE shard = $1;

-- raise_epoch --
UPDATE shard_state SET epoch = epoch + 1, holder = $2 WHERE shard = $1 RETURNING epoch, group_seq;

-- try_lock --
SELECT pg_try_advisory_lock($1::integer, $2::integer);

-- is_locked --
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = $1::integer::oid AND objid = $2::integer::oid AND objsubid = 2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
);

-- end_session --
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND classid = $1::integer::oid AND objid = $2::integer::oid AND objsubid = 2
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted AND pid = $3;
