import pytest


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory):
    """No test reads or writes the runs, reports and caches of whoever runs the tests."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HORKD_RUNS", str(base / "runs"))
    monkeypatch.setenv("HORKD_REPORTS", str(base / "reports"))
    monkeypatch.setenv("HORKD_CACHE", str(base / "cache"))
