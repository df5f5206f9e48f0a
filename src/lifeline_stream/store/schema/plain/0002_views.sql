-- What other programs may rely on: these names and columns stay.

CREATE VIEW reading_v AS
SELECT c.id AS channel, r.ts, r.value, (r.quality & 15)::smallint AS quality, c.county, c.domain
FROM reading r JOIN channel c USING (channel);

CREATE VIEW waveform_v AS
SELECT c.id AS channel, w.t0, w.rate_hz, w.n, w.samples, (w.quality & 15)::smallint AS quality, c.county, c.domain
FROM waveform w JOIN channel c USING (channel);

CREATE VIEW channel_v AS
SELECT id AS channel, device, asset, county, domain, sensor, unit, every_s FROM channel WHERE NOT retired;

CREATE VIEW alarm_v AS
SELECT a.alarm_id, c.id AS channel, c.asset, c.county, c.domain, c.sensor, c.unit, a.detector, a.class,
       a.severity, a.peak_severity, a.active, a.onset, a.raised_at, a.cleared_at, a.value, a.limit_value,
       a.found_late, a.withdrawn, a.why, a.source, a.action, a.pack_hash
FROM alarm a JOIN channel c USING (channel);

CREATE VIEW alarm_event_v AS
SELECT e.event_id, e.alarm_id, c.id AS channel, c.county, c.domain, a.detector, e.kind, e.at,
       e.severity, e.value, e.limit_value, e.late
FROM alarm_event e JOIN alarm a USING (alarm_id) JOIN channel c USING (channel);

CREATE VIEW reject_v AS
SELECT id, received_at, reason, detail, source, payload, n_readings, shard FROM reject;

-- Rollups of what a reading is worth: good, suspect, over range and manual. On TimescaleDB they become continuous aggregates
-- of the same names and columns.

CREATE VIEW reading_1m AS
SELECT channel, date_bin('1 minute', ts, '2000-01-03Z') AS bucket,
       count(*) AS n, min(value) AS min, max(value) AS max, avg(value) AS mean
FROM reading WHERE (quality & 15) IN (0, 1, 6, 7) AND value <> 'NaN'
GROUP BY 1, 2;

CREATE VIEW reading_1h AS
SELECT channel, date_bin('1 hour', ts, '2000-01-03Z') AS bucket,
       count(*) AS n, min(value) AS min, max(value) AS max, avg(value) AS mean
FROM reading WHERE (quality & 15) IN (0, 1, 6, 7) AND value <> 'NaN'
GROUP BY 1, 2;

CREATE VIEW reading_1m_v AS
SELECT c.id AS channel, r.bucket, r.n, r.min, r.max, r.mean, c.county, c.domain
FROM reading_1m r JOIN channel c USING (channel);

CREATE VIEW reading_1h_v AS
SELECT c.id AS channel, r.bucket, r.n, r.min, r.max, r.mean, c.county, c.domain
FROM reading_1h r JOIN channel c USING (channel);
