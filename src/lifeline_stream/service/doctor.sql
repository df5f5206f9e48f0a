-- server --
SELECT current_setting('server_version') AS version, current_user AS user, current_schema() AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescale,
       current_setting('timescaledb.license', true) AS license,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit;
