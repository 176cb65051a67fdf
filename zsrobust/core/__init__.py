"""Core: errors, registries, spec strings, files, claims, the hub. Nothing here knows of attacks or datasets."""
