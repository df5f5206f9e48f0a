-- lock --
LOCK TABLE channel IN SHARE ROW EXCLUSIVE MODE;

-- put_district --
INSERT INTO district (district_id, name, kind, parent)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (district_id) DO UPDATE SET
    name = excluded.name, kind = excluded.kind, parent = excluded.parent, retired = false;

-- retire_district --
UPDATE district SET retired = true WHERE NOT retired AND district_id <> ALL ($1::text[]);

-- put_asset --
INSERT INTO asset (asset_id, name, domain, kind, districts, owner, lon, lat, risk)
SELECT asset_id, name, domain, kind, ARRAY(SELECT jsonb_array_elements_text(districts)), owner, lon, lat, risk
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[], $7::float8[], $8::float8[], $9::text[])
  AS a (asset_id, name, domain, kind, districts, owner, lon, lat, risk)
ON CONFLICT (asset_id) DO UPDATE SET
    name = excluded.name, domain = excluded.domain, kind = excluded.kind, districts = excluded.districts,
    owner = excluded.owner, lon = excluded.lon, lat = excluded.lat, risk = excluded.risk, retired = false;

-- retire_asset --
UPDATE asset SET retired = true WHERE NOT retired AND asset_id <> ALL ($1::text[]);

-- put_device --
INSERT INTO device (device_id, gateway_id, asset_id, model)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (device_id) DO UPDATE SET
    gateway_id = excluded.gateway_id, asset_id = excluded.asset_id, model = excluded.model, retired = false;

-- retire_device --
UPDATE device SET retired = true WHERE NOT retired AND device_id <> ALL ($1::text[]);

-- put_channel --
INSERT INTO channel (channel, id, device, asset, county, domain, sensor, unit, every_s)
SELECT coalesce(known.channel, next.first + row_number() OVER (PARTITION BY known.channel IS NULL ORDER BY c.place)),
       c.id, c.device, c.asset, c.county, c.domain, c.sensor, c.unit, c.every_s
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::float8[])
  WITH ORDINALITY AS c (id, device, asset, county, domain, sensor, unit, every_s, place)
LEFT JOIN channel known ON known.id = c.id
CROSS JOIN (SELECT coalesce(max(channel), -1) AS first FROM channel) next
ON CONFLICT (id) DO UPDATE SET
    device = excluded.device, asset = excluded.asset, county = excluded.county, domain = excluded.domain,
    sensor = excluded.sensor, unit = excluded.unit, every_s = excluded.every_s, retired = false;

-- retire_channel --
UPDATE channel SET retired = true WHERE NOT retired AND id <> ALL ($1::text[]);

-- forget_adjacency --
DELETE FROM adjacency;

-- put_adjacency --
INSERT INTO adjacency (from_asset, to_asset, relation, distance_m)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[])
ON CONFLICT (from_asset, to_asset, relation) DO UPDATE SET distance_m = excluded.distance_m;

-- numbers --
SELECT id, channel FROM channel WHERE NOT retired;
