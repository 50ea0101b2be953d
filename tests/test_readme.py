"""The Python of the README runs as it stands."""

import re
from dataclasses import replace

from horkd import data, paths

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: Not run: what asks a demo that has to be open in another process. `test_demo_client` does.
ASKS_THE_DEMO = "from gradio_client import"


def test_its_python_runs(monkeypatch):
    monkeypatch.chdir(paths.root())  # its paths are of a checkout
    text = (paths.root() / "README.md").read_text(encoding="utf-8")
    glyphs = data.DATASETS["glyphs"]
    few = replace(glyphs, load=lambda name, _: glyphs.load(name, 2))  # images of each character
    names, run = {}, 0
    with data.registered({"glyphs": few}):
        for block in BLOCK.finditer(text):
            above = text[: block.start(1)].count("\n")
            code = compile("\n" * above + block[1], "README.md", "exec")  # errors name the line
            if not block[1].startswith(ASKS_THE_DEMO):
                exec(code, names)
                run += 1
    assert run == text.count("```python") - 1
    assert set(names["rates"]["recall"]) == {"1", "2", "4", "8"}
    assert names["neighbours"].shape == (200, 5)
    assert names["learner"].grad.isfinite().all()
