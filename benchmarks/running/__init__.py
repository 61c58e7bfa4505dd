"""The sections of benchmarks/runner.py."""
