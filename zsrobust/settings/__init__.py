"""Settings: suites say what is measured, protocols say how. One TOML file each."""
