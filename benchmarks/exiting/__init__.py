"""What `benchmarks/exits.py` measures: schedules and criteria on several sets."""
