"""The demo: teacher and student on a photo, at any resolution. `python -m app` opens it."""
