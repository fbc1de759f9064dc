"""Studies that are offered ready, by name: `deltaspace study NAME --out DIR`.

Each file is one question about delta tuning (Ding et al. 2023): a dataclass of settings whose `run` checks its input, trains and measures in
stages that are kept, and writes table, figure, summary and report. Its settings file has the same name in studies/.
"""
