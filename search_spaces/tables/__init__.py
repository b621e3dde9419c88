"""Tables: one YAML each; `twofold table NAME` runs it."""
