"""Search spaces: one YAML per sweep, its launch command in the first line."""
