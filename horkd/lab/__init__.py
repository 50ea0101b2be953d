"""A configuration becomes a record: configuration, runner, store, looks, and doing many runs."""
