"""A task is a folder and a line: one made up here goes through everything that knows tasks."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import tiny

from horkd import cli
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import work
from horkd.lab.config import RunConfig
from horkd.lab.store import read
from horkd.reproduce import after, in_order, reproduce
from horkd.studies.arm import Arm
from horkd.studies.preset import Preset
from horkd.studies.presets import get_preset, get_presets, meant_by, presets
from horkd.studies.study import (
    choose,
    collect,
    configure,
    queue,
    seeds,
    studies_of,
    study,
    trainer,
    usual_exports,
)
from horkd.studies.task import Study, Task, registered, task_of, tasks

# The whole task -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ToyPreset(Preset):
    task: ClassVar[str] = "toy"

    low: int


ARMS = (
    Arm("toy teacher", "wide, 16 px", 16, network="teacher", role="teacher"),
    Arm("toy student", "narrow, small", frozen="toy teacher", orders="23", repeated=True),
)


def toy_configure(preset: ToyPreset, arm: Arm, seed: int) -> RunConfig:
    frozen = None if arm.frozen is None else toy_configure(preset, ARMS[0], 0)
    weights = dict(preset.orders)
    return RunConfig(
        getattr(preset, arm.network),
        Degradation(arm.pixels or preset.low),
        frozen,
        orders=tuple((order, weights[order]) for order in arm.orders),
        data=preset.data,
        recipe=preset.recipe,
        seed=seed,
    )


SMALL = ToyPreset(
    name="toy-small",
    data="glyphs",
    teacher="resnet8x0.5",
    compact="resnet8x0.25",
    recipe=replace(tiny.RECIPE, epochs=1),
    seeds=2,
    orders=(("2", 25.0), ("3", 50.0)),
    low=8,
)
TOY = Task(
    name="toy",
    what="toys",
    presets=(SMALL,),
    studies=(Study("play", "does it work?", lambda preset: ARMS, notebook="90_toys"),),
    configure=toy_configure,
    exports=lambda preset: ["toy student"],
)


# --------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(monkeypatch, tmp_path):
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    with registered(TOY) as task:
        yield task


def test_a_task_is_known_as_long_as_it_is_registered(toy):
    assert list(tasks()) == ["classification", "faces", "retrieval", "toy"]
    assert get_preset("toy-small") == SMALL
    assert get_presets("toy-small", seeds=5) == (replace(SMALL, seeds=5),)
    with pytest.raises(HorkdError, match="preset toy-small is not made for cifar100"):
        get_preset("toy-small", "cifar100")
    with pytest.raises(HorkdError, match="no study of metric learning to select for"):
        get_preset("toy-small", select="last")
    assert studies_of(SMALL) == ("play",)
    assert study(SMALL, "table1") == study(get_preset("cpu"), "play") == {}
    with pytest.raises(HorkdError, match=r"unknown study 'work': choose from .*, play$"):
        study(SMALL, "work")


def test_outside_of_the_block_it_is_not():
    before = (list(tasks()), list(presets()))
    with registered(TOY), registered(replace(TOY, what="other toys")):
        assert task_of(SMALL).what == "other toys"
    assert (list(tasks()), list(presets())) == before
    with pytest.raises(HorkdError, match="unknown preset 'toy-small'"):
        get_preset("toy-small")


def test_it_is_queued_chosen_worked_off_and_collected(toy):
    jobs = queue(SMALL)
    assert [(j.study, j.arm, j.config.seed) for j in jobs] == [
        ("play", "toy teacher", 0),
        ("play", "toy student", 0),
        ("play", "toy student", 1),
    ]
    assert [len(seeds(SMALL, arm)) for arm in ARMS] == [1, 2]
    assert choose(SMALL, ["play"], ["toy student"]) == jobs[1:]
    assert configure(SMALL, ARMS[1], 1) == jobs[2].config
    said = []
    shift = work.work(jobs, settings=tiny.SETTINGS, say=said.append)
    assert ([run.config for run in shift.done], shift.left) == ([j.config for j in jobs], 0)
    assert said[1].startswith("toy student, seed 0: test top-1 ")
    found = collect(SMALL, "play", trainer(SMALL, train_missing=False))
    assert {name: len(runs) for name, runs in found.items()} == {"toy teacher": 1, "toy student": 2}
    assert found["toy student"][0].record["config"]["frozen"]["model"] == SMALL.teacher


def test_the_command_line_knows_it(toy, capsys, tmp_path):
    def horkd(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments, "--preset", "toy-small"])
        assert stopped.value.code == 0
        return capsys.readouterr().out

    assert horkd("queue").splitlines()[-1].startswith("3 of 3 runs missing")
    done = horkd("work", "--device", "cpu", "--seeds", "1").splitlines()[-1]
    assert done == "2 runs done, 0 diverged, 0 missing"
    assert read(configure(SMALL, ARMS[1])) is not None
    assert "toy-student.safetensors" in horkd("export", str(tmp_path / "out"))
    assert usual_exports(SMALL) == ["toy student"]


def test_its_notebook_is_run_for_its_preset_alone(toy, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("papermill")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("02_two_stage_transfer", "90_toys"):
        cell = nbformat.v4.new_code_cell(
            'preset: str = ""\ndata: str = ""\nout: str = ""\n', metadata={"tags": ["parameters"]}
        )
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
        nbformat.write(book, folder / f"{name}.ipynb")
    for preset, shown in (("toy-small", "90_toys"), ("smoke", "02_two_stage_transfer")):
        result = reproduce(
            preset,
            out=tmp_path / preset,
            notebooks=folder,
            run=lambda notebook, out: {"seconds": 0.0, "files": []},
        )
        assert result.done == (shown,)


def test_a_notebook_comes_after_those_whose_runs_it_reads():
    readers = Study("again", "?", lambda preset: ARMS, notebook="95_a", read_by=("91_b", "92_c"))
    with registered(replace(TOY, studies=(*TOY.studies, readers))):
        assert after("92_c") == ("95_a",)
        assert in_order(["91_b", "92_c", "95_a", "90_toys"]) == ["90_toys", "95_a", "91_b", "92_c"]
    assert in_order(["92_c", "95_a"]) == ["92_c", "95_a"]


def test_every_task_of_the_package_is_whole():
    for name, task in tasks().items():
        assert task.name == name
        assert len({one.name for one in task.studies}) == len(task.studies)
        assert all(one.asks for one in task.studies)
        for preset in task.presets:
            assert preset.task == name
            assert task.takes(preset.data)
            assert task.adapt(preset, preset.data) == preset
            assert meant_by(preset.data, False) in presets()
            listed = {arm for one in studies_of(preset) for arm in study(preset, one)}
            assert usual_exports(preset)
            assert set(usual_exports(preset)) <= listed


@pytest.mark.parametrize("name", sorted(presets()))
def test_what_has_one_name_is_trained_in_one_precision(name):
    """Two tasks may share the name of a preset, and a command trains both."""
    assert len({preset.precision for preset in get_presets(name)}) == 1
