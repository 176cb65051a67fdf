"""Settings: a suite defines what is measured, a protocol defines how. Each is a TOML file."""
