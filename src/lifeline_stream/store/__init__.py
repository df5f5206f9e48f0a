"""Where readings and alarms are kept: PostgreSQL, with or without TimescaleDB."""
