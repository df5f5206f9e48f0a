-- What TimescaleDB (2.19 or later) adds, on tables that may hold rows already. Row security is not possible on these tables:
-- no login role may select them; views stand over them.

-- A rollup looks back over nearly all that is kept, so that late data reach it, but never past what retention has dropped:
-- a refresh there would delete the rollup too. It is refreshed a day, or a month, at a time and only where something changed:
-- the default of 2.21, a bucket at a time, takes hours for a table that holds a year, and everything at once spills to disk.

SELECT create_hypertable('reading', by_range('ts', interval '1 day'), create_default_indexes => false, migrate_data => true);
ALTER TABLE reading SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'channel', timescaledb.orderby = 'ts');
CALL add_columnstore_policy('reading', after => interval '7 days');
SELECT add_retention_policy('reading', drop_after => interval '400 days');

SELECT create_hypertable('waveform', by_range('t0', interval '1 day'), create_default_indexes => false, migrate_data => true);
ALTER TABLE waveform SET (timescaledb.enable_columnstore, timescaledb.segmentby = 'channel', timescaledb.orderby = 't0');
CALL add_columnstore_policy('waveform', after => interval '2 days');
SELECT add_retention_policy('waveform', drop_after => interval '30 days');

DROP VIEW reading_1h_v, reading_1m_v, reading_1h, reading_1m;
DROP INDEX reading_minute;

CREATE MATERIALIZED VIEW reading_1m WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT channel, time_bucket('1 minute', ts) AS bucket,
       count(*) AS n, min(value) AS min, max(value) AS max, avg(value) AS mean
FROM reading WHERE (quality & 15) IN (0, 1, 6, 7) AND value <> 'NaN'
GROUP BY 1, 2 WITH NO DATA;

CREATE MATERIALIZED VIEW reading_1h WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT channel, time_bucket('1 hour', bucket) AS bucket,
       sum(n)::bigint AS n, min(min) AS min, max(max) AS max, sum(n * mean) / sum(n) AS mean
FROM reading_1m
GROUP BY 1, 2 WITH NO DATA;

SELECT add_continuous_aggregate_policy('reading_1m', start_offset => interval '390 days', end_offset => interval '5 minutes',
                                       schedule_interval => interval '5 minutes', buckets_per_batch => 1440);
SELECT add_continuous_aggregate_policy('reading_1h', start_offset => interval '390 days', end_offset => interval '2 hours',
                                       schedule_interval => interval '1 hour', buckets_per_batch => 720);
SELECT add_retention_policy('reading_1m', drop_after => interval '1200 days');

CREATE VIEW reading_1m_v AS
SELECT c.id AS channel, r.bucket, r.n, r.min, r.max, r.mean, c.county, c.domain
FROM reading_1m r JOIN channel c USING (channel);

CREATE VIEW reading_1h_v AS
SELECT c.id AS channel, r.bucket, r.n, r.min, r.max, r.mean, c.county, c.domain
FROM reading_1h r JOIN channel c USING (channel);
