"""The studies of delta tuning as presets: each a dataclass of settings whose `run` ends in a table with intervals and a figure."""
