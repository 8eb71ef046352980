"""Benchmarks of fanin over its history, for asv. See ``benchmarks/README.md``."""
