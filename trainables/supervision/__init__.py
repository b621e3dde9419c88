"""What a configuration may know of the target: one file per kind of supervision."""
