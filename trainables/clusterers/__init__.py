"""How the trusted target set is found: one file per clusterer."""
