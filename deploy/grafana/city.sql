-- What the dashboard "city" asks of the stable views, by panel and by variable. The database role of Grafana may read those
-- views and nothing else, see provisioning/datasources/lifeline.yml.

-- variable_domain --
SELECT DISTINCT domain FROM channel_v ORDER BY 1;

-- variable_county --
SELECT DISTINCT coalesce(nullif(county, ''), '市级 city') FROM channel_v ORDER BY 1;

-- variable_channel --
SELECT channel FROM channel_v
WHERE domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
ORDER BY 1;

-- open_by_severity --
SELECT count(*) FILTER (WHERE class = 'hazard' AND severity = 4) AS "红 red",
       count(*) FILTER (WHERE class = 'hazard' AND severity = 3) AS "橙 orange",
       count(*) FILTER (WHERE class = 'hazard' AND severity = 2) AS "黄 yellow",
       count(*) FILTER (WHERE class = 'hazard' AND severity = 1) AS "蓝 blue",
       count(*) FILTER (WHERE class = 'device') AS "设备 device"
FROM alarm_v
WHERE active AND domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring});

-- open_by_domain --
SELECT domain,
       count(*) FILTER (WHERE severity = 1) AS "蓝 blue",
       count(*) FILTER (WHERE severity = 2) AS "黄 yellow",
       count(*) FILTER (WHERE severity = 3) AS "橙 orange",
       count(*) FILTER (WHERE severity = 4) AS "红 red"
FROM alarm_v
WHERE active AND class = 'hazard'
  AND domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
GROUP BY 1 ORDER BY 1;

-- open_by_county --
SELECT coalesce(nullif(county, ''), '市级 city') AS county,
       count(*) FILTER (WHERE severity = 1) AS "蓝 blue",
       count(*) FILTER (WHERE severity = 2) AS "黄 yellow",
       count(*) FILTER (WHERE severity = 3) AS "橙 orange",
       count(*) FILTER (WHERE severity = 4) AS "红 red"
FROM alarm_v
WHERE active AND class = 'hazard'
  AND domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
GROUP BY 1 ORDER BY 1;

-- newest_alarms --
SELECT raised_at AS "时间 raised", (ARRAY['蓝 blue', '黄 yellow', '橙 orange', '红 red'])[severity] AS "等级 severity",
       CASE WHEN active THEN '未消除 active' ELSE '已消除 ended' END AS "状态 state",
       domain AS "专业 domain", coalesce(nullif(county, ''), '市级 city') AS "区县 county", asset AS "设施 asset",
       channel AS "通道 channel", detector AS "规则 detector", value AS "值 value", limit_value AS "限值 limit",
       unit AS "单位 unit", action AS "处置 action"
FROM alarm_v
WHERE domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
ORDER BY raised_at DESC, alarm_id LIMIT 50;

-- raised --
SELECT $__timeGroupAlias(at, $__interval), (ARRAY['蓝 blue', '黄 yellow', '橙 orange', '红 red'])[severity] AS metric,
       count(*) AS alarms
FROM alarm_event_v
WHERE kind = 'raised' AND $__timeFilter(at)
  AND domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
GROUP BY 1, 2 ORDER BY 1, 2;

-- readings_per_minute --
SELECT bucket AS "time", domain AS metric, sum(n)::bigint AS readings
FROM (
    SELECT bucket, domain, county, n FROM reading_1m_v WHERE $__timeFilter(bucket)
    UNION ALL SELECT date_trunc('minute', t0), domain, county, n FROM waveform_v WHERE $__timeFilter(t0)
) counted
WHERE domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
GROUP BY 1, 2 ORDER BY 1, 2;

-- reporting --
SELECT domain AS "专业 domain", coalesce(nullif(county, ''), '市级 city') AS "区县 county",
       count(*) AS "应报 due", count(*) FILTER (WHERE reports) AS "在报 reporting",
       (count(*) FILTER (WHERE reports))::float8 / count(*) AS "在线率 share"
FROM (
    SELECT domain, county,
           EXISTS (SELECT FROM reading_v r WHERE r.channel = c.channel AND r.ts > now() - grace)
           OR EXISTS (SELECT FROM waveform_v w WHERE w.channel = c.channel AND w.t0 > now() - grace) AS reports
    FROM channel_v c CROSS JOIN LATERAL (SELECT greatest(3 * every_s, 60) * interval '1 second' AS grace) g
    WHERE domain IN (${domain:sqlstring}) AND coalesce(nullif(county, ''), '市级 city') IN (${county:sqlstring})
) watched
GROUP BY 1, 2 ORDER BY 5, 1, 2;

-- rejects --
SELECT $__timeGroupAlias(received_at, $__interval), reason AS metric, sum(n_readings)::bigint AS readings
FROM reject_v
WHERE $__timeFilter(received_at)
GROUP BY 1, 2 ORDER BY 1, 2;

-- history --
SELECT $__timeGroupAlias(at, $__interval), min(low) AS "最小 min", avg(mean) AS "平均 mean", max(high) AS "最大 max"
FROM (
    SELECT ts AS at, value AS low, value AS mean, value AS high FROM reading_v
    WHERE channel = ${channel:sqlstring} AND $__timeFilter(ts) AND quality IN (0, 1, 6, 7) AND value <> 'NaN'
    UNION ALL
    SELECT t0, s.low, s.mean, s.high FROM waveform_v
    CROSS JOIN LATERAL (SELECT min(v) AS low, avg(v) AS mean, max(v) AS high FROM unnest(samples) AS v) s
    WHERE channel = ${channel:sqlstring} AND $__timeFilter(t0) AND quality IN (0, 1, 6, 7)
) seen
GROUP BY 1 ORDER BY 1;

-- history_of_alarms --
SELECT at AS "时间 at", kind AS "事件 event",
       (ARRAY['蓝 blue', '黄 yellow', '橙 orange', '红 red'])[severity] AS "等级 severity",
       detector AS "规则 detector", value AS "值 value", limit_value AS "限值 limit", late AS "迟到 late"
FROM alarm_event_v
WHERE channel = ${channel:sqlstring} AND $__timeFilter(at)
ORDER BY at DESC LIMIT 200;
