-- Tables of lifeline-stream on any PostgreSQL from 15 on. Times are timestamptz where a person or another program reads them
-- (event time, UTC), and int8 µs since 1970 where only the recovery does.

CREATE FUNCTION time_of(us bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    RETURN 'epoch'::timestamptz + us * interval '1 microsecond';
CREATE FUNCTION us_of(at timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (extract(epoch FROM at) * 1000000)::bigint;

-- The registry of the city. A row that the registry no longer has is retired, not deleted: stored readings and alarms name it.

CREATE TABLE district (
    district_id text PRIMARY KEY,
    name        text NOT NULL,
    kind        text NOT NULL,
    parent      text NOT NULL,
    retired     boolean NOT NULL DEFAULT false
);

CREATE TABLE asset (
    asset_id  text PRIMARY KEY,
    name      text NOT NULL,
    domain    text NOT NULL,
    kind      text NOT NULL,
    districts text[] NOT NULL,
    owner     text NOT NULL,
    lon       double precision NOT NULL,
    lat       double precision NOT NULL,
    risk      text NOT NULL,
    retired   boolean NOT NULL DEFAULT false
);

CREATE TABLE device (
    device_id  text PRIMARY KEY,
    gateway_id text NOT NULL,
    asset_id   text NOT NULL,
    model      text NOT NULL,
    retired    boolean NOT NULL DEFAULT false
);

CREATE TABLE adjacency (
    from_asset text NOT NULL,
    to_asset   text NOT NULL,
    relation   text NOT NULL,
    distance_m double precision NOT NULL,
    PRIMARY KEY (from_asset, to_asset, relation)
);

CREATE TABLE channel (
    channel integer PRIMARY KEY,        -- dense index that readings carry; never given to another id
    id      text NOT NULL UNIQUE,
    device  text NOT NULL,
    asset   text NOT NULL,
    county  text NOT NULL,              -- first county of the asset; empty for the city's own
    domain  text NOT NULL,
    sensor  text NOT NULL,              -- domain.sensor
    unit    text NOT NULL,              -- of the stored values
    every_s double precision NOT NULL,
    retired boolean NOT NULL DEFAULT false
);

-- Readings: narrow rows, no unique index on the fast path. A late row is compared before it is stored.

CREATE TABLE reading (
    channel        integer NOT NULL,
    ts             timestamptz NOT NULL,
    value          double precision NOT NULL,
    quality        smallint NOT NULL,   -- quality in the low four bits, arrival bits above
    gateway_lag_ms integer NOT NULL,    -- -2147483648 where the gateway did not say when it sent
    group_seq      bigint NOT NULL
);
CREATE INDEX reading_channel_ts ON reading (channel, ts);
CREATE INDEX reading_group_seq ON reading USING brin (group_seq);
-- For a time range of the view reading_1m; the expression is that of its bucket.
CREATE INDEX reading_minute ON reading USING brin (date_bin('1 minute', ts, '2000-01-03Z'));

CREATE TABLE waveform (
    channel   integer NOT NULL,
    t0        timestamptz NOT NULL,
    rate_hz   double precision NOT NULL,
    n         integer NOT NULL,
    samples   real[] NOT NULL,
    quality   smallint NOT NULL,
    group_seq bigint NOT NULL
);
CREATE INDEX waveform_channel_t0 ON waveform (channel, t0);
CREATE INDEX waveform_group_seq ON waveform USING brin (group_seq);
CREATE INDEX waveform_t0 ON waveform USING brin (t0);

CREATE TABLE reject (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    reason      text NOT NULL,
    detail      text NOT NULL,
    source      text NOT NULL,
    payload     bytea NOT NULL,         -- cut at 64 KiB
    n_readings  integer NOT NULL,
    shard       text NOT NULL,
    group_seq   bigint NOT NULL
);
CREATE INDEX reject_received_at ON reject USING brin (received_at);

-- Who writes, and what has been written. group_seq of a row is shard_no * 2^40 + n: unique over shards, ascending in each.

CREATE TABLE shard_state (
    shard     text PRIMARY KEY,
    shard_no  integer GENERATED ALWAYS AS IDENTITY UNIQUE,
    epoch     bigint NOT NULL DEFAULT 0,    -- raised by whoever takes the shard
    group_seq bigint NOT NULL DEFAULT 0,    -- n of the last group
    holder    text NOT NULL DEFAULT ''
);

CREATE TABLE commit_group (
    group_seq        bigint PRIMARY KEY,
    shard            text NOT NULL,
    token            text NOT NULL,         -- tells this content from another group of the same number
    now_us           bigint NOT NULL,       -- the engine's clock, replayed on recovery
    watch_from_us    bigint NOT NULL,
    declaration_hash text NOT NULL,
    n_readings       integer NOT NULL,
    n_samples        integer NOT NULL,
    from_us          bigint NOT NULL,       -- event times of its rows lie in [from_us, to_us]
    to_us            bigint NOT NULL,
    committed_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE declaration (
    hash text PRIMARY KEY,
    body bytea NOT NULL
);

CREATE TABLE engine_state (
    group_seq        bigint PRIMARY KEY,    -- the state is that after this group
    shard            text NOT NULL,
    declaration_hash text NOT NULL,
    state            bytea NOT NULL
);
ALTER TABLE engine_state ALTER state SET STORAGE EXTERNAL;  -- megabytes every half minute: not worth compressing

-- The book of alarms. Severity ascends: 1 blue, 2 yellow, 3 orange, 4 red.

CREATE TABLE alarm (
    alarm_id      text PRIMARY KEY,
    shard         text NOT NULL,
    channel       integer NOT NULL,
    detector      text NOT NULL,
    class         text NOT NULL,
    severity      smallint NOT NULL,
    peak_severity smallint NOT NULL,
    active        boolean NOT NULL,
    onset         timestamptz NOT NULL,
    raised_at     timestamptz NOT NULL,
    cleared_at    timestamptz,
    value         double precision NOT NULL,
    limit_value   double precision NOT NULL,
    found_late    boolean NOT NULL,
    withdrawn     boolean NOT NULL,
    why           text NOT NULL,
    source        text NOT NULL,
    action        text NOT NULL,
    pack_hash     text NOT NULL,
    group_seq     bigint NOT NULL
);
-- One active alarm per (subject, detector). What the history pass finds stands beside it.
CREATE UNIQUE INDEX alarm_one_active ON alarm (channel, detector) WHERE active AND NOT found_late;
CREATE INDEX alarm_active ON alarm (raised_at) WHERE active;
CREATE INDEX alarm_raised_at ON alarm (raised_at);

CREATE TABLE alarm_event (
    event_id    text PRIMARY KEY,
    alarm_id    text NOT NULL,
    kind        text NOT NULL,
    at          timestamptz NOT NULL,
    severity    smallint NOT NULL,
    value       double precision NOT NULL,
    limit_value double precision NOT NULL,
    late        boolean NOT NULL,
    group_seq   bigint NOT NULL
);
CREATE INDEX alarm_event_alarm ON alarm_event (alarm_id, at);

CREATE TABLE trial_event (
    event_id    text PRIMARY KEY,
    alarm_id    text NOT NULL,
    kind        text NOT NULL,
    at          timestamptz NOT NULL,
    onset       timestamptz NOT NULL,
    channel     integer NOT NULL,
    detector    text NOT NULL,
    severity    smallint NOT NULL,
    value       double precision NOT NULL,
    limit_value double precision NOT NULL,
    late        boolean NOT NULL,
    group_seq   bigint NOT NULL
);
CREATE INDEX trial_event_detector ON trial_event (detector, at);

-- What people must be told, written with the alarm and delivered at least once.

CREATE TABLE outbox (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           text NOT NULL UNIQUE,
    alarm_id     text NOT NULL,
    at           timestamptz NOT NULL,      -- event time
    body         bytea NOT NULL,
    state        text NOT NULL CHECK (state IN ('due', 'held', 'skipped', 'delivered', 'failed')),
    due_at       timestamptz NOT NULL,      -- while it is being delivered: when another may try
    attempts     integer NOT NULL DEFAULT 0,
    result       text NOT NULL DEFAULT '',  -- of the last attempt
    delivered_at timestamptz
);
CREATE INDEX outbox_open ON outbox (due_at) WHERE state IN ('due', 'held');
CREATE INDEX outbox_alarm ON outbox (alarm_id, seq);

CREATE TABLE disabled_target (
    target      text PRIMARY KEY,
    disabled_at timestamptz NOT NULL,
    reason      text NOT NULL
);
