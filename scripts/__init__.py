"""The command line of deltaspace, its studies, benchmarks and reports (installed as the package `deltaspace`)."""
