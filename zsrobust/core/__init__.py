"""Core: errors, registries, spec strings, files, claims and the hub, for any kind of entry."""
