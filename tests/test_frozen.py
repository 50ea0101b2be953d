"""What others rely on stays as it is: keys, names of tensors, commands and their options."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import typer.main

from horkd import cli, paths
from horkd.lab.config import config_from_dict
from horkd.networks.network import ModelSpec, Network
from horkd.studies.presets import get_presets, presets
from horkd.studies.study import configure, seeds
from horkd.studies.task import task_of

FROZEN = Path(__file__).parent / "frozen"
RECORDS = sorted(
    path
    for path in (paths.root() / "reports").glob("**/records/*.json")
    if not path.name.endswith((".views.json", ".open_set.json"))
)


def frozen(name: str):
    return json.loads((FROZEN / f"{name}.json").read_text())


def test_every_committed_record_has_its_key():
    """A key is a function of the configuration alone, today as on the day it was written."""
    assert len(RECORDS) > 300
    wrong = []
    for path in RECORDS:
        content = json.loads(path.read_text())
        if config_from_dict(content["config"]).key != content["key"]:
            wrong.append(path.name)
    assert not wrong


@pytest.mark.parametrize("name", presets())
def test_every_arm_of_every_study_has_its_key(name):
    found = {}
    for preset, one in ((p, one) for p in get_presets(name) for one in task_of(p).studies):
        arms = {
            arm.name: [configure(preset, arm, seed).key for seed in seeds(preset, arm)]
            for arm in one.of(preset).values()
        }
        if arms:
            text = json.dumps(sorted(key for keys in arms.values() for key in keys))
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            found[one.name] = [len(arms), digest]
    assert found == frozen("study_keys")[name]


@pytest.mark.parametrize("text", frozen("state_dicts"))
def test_networks_keep_the_names_of_their_tensors(text):
    """Weights in files are found by these."""
    name, classes, embedding = text.split()
    width = None if embedding == "None" else int(embedding)
    with torch.device("meta"):
        tensors = Network(ModelSpec(name, int(classes), width)).state_dict()
    lines = "\n".join(f"{n} {tuple(t.shape)} {t.dtype}" for n, t in tensors.items())
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert [len(tensors), digest, next(iter(tensors)), list(tensors)[-1]] == (
        frozen("state_dicts")[text]
    )


def test_commands_keep_their_options():
    """Options may be added; none goes, and none changes its default or what it says."""
    commands = typer.main.get_command(cli.app).commands
    found = {
        name: {
            ",".join(sorted((*p.opts, *p.secondary_opts))): [str(p.default), p.help or ""]
            for p in command.params
            if getattr(p, "help", "") is not None and p.name != "help"
        }
        for name, command in commands.items()
    }
    for name, options in frozen("commands").items():
        for option, text in options.items():
            assert found[name].get(option) == text, f"horkd {name} {option}"
