-- create_ledger --
CREATE TABLE IF NOT EXISTS schema_migration (
    name       text PRIMARY KEY,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- ledger_exists --
SELECT to_regclass('schema_migration') IS NOT NULL;

-- applied --
SELECT name, checksum FROM schema_migration ORDER BY name;

-- enter --
INSERT INTO schema_migration (name, checksum) VALUES ($1, $2);

-- is_applied --
SELECT EXISTS (SELECT FROM schema_migration WHERE name = $1);

-- lock --
SELECT pg_advisory_xact_lock($1::bigint);

-- server_version --
SELECT current_setting('server_version_num');

-- timescale_version --
SELECT extversion FROM pg_extension
WHERE extname = 'timescaledb' AND current_setting('timescaledb.license', true) IS DISTINCT FROM 'apache';
