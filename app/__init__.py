"""The demo: teacher and student on a photo, at any resolution. `python -m app` opens it."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
