"""The paper's tables, measured: definition, run, judgement, and how they are printed."""
