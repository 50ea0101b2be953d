"""Configuration, store, runner and queue of runs."""
