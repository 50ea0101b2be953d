"""A task as a folder: what CONTRIBUTING says that one needs, in thirty lines."""
