import signal

import pytest

# A shell that starts this in the background has it ignore Ctrl-C, and children inherit that: the
# tests that interrupt a process would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory):
    """No test reads or writes the runs, reports and caches of whoever runs the tests."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HORKD_RUNS", str(base / "runs"))
    monkeypatch.setenv("HORKD_REPORTS", str(base / "reports"))
    monkeypatch.setenv("HORKD_CACHE", str(base / "cache"))
