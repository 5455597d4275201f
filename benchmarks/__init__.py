"""Runnable, never timed tests: what the monitor costs. `make bench` runs them all."""
