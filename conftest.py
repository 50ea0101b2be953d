"""Tests, notebooks and all that they start run the code of this checkout.

An environment that was copied with a checkout leads to the code that it was made for.
"""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
# For kernels and other processes; pytest itself looks beside this file first.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH"))))


def pytest_configure() -> None:
    """Refuse to test other code.

    Raises:
        UsageError: if something has imported it already.
    """
    import horkd

    if Path(horkd.__file__).resolve().parent != ROOT / "horkd":
        raise pytest.UsageError(
            f"these tests would run the code of {horkd.__file__}: run `make setup` in {ROOT}"
        )
