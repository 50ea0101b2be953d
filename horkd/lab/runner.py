"""A configuration gives a key; a run of it leaves a record and a checkpoint under that key.

    runs/<name>-<key>/record.json            what was done and what came out
                      model.safetensors      the network (the export of a student)
                      objective.safetensors  projector and class centres, if it had any
                      views.json             the finished network tested on other resolutions
                      open_set.json          the same on pairs and galleries of unseen classes
                      state.safetensors      while unfinished: everything needed to go on
                      diverged.json          instead of a record: the loss was no finite number

The same configuration again is read, not recomputed. A run interrupted anywhere goes on from its
last saved step and ends with the record of an uninterrupted one. Files are written atomically and
carry a digest; a damaged one is set aside with a warning and never reused.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from horkd import paths, storage
from horkd.answers import Answers
from horkd.data import Dataset, ImageSet, PhotoFiles, load_dataset, look_again
from horkd.errors import HorkdError
from horkd.lab import prepare
from horkd.lab.checkpoint import Control, Saver, TimeUp, as_before, resume, with_present
from horkd.lab.config import RunConfig
from horkd.lab.store import (
    Run,
    claim,
    committed_file,
    finished,
    lock,
    note_divergence,
    tidy,
    write_record,
)
from horkd.machine import Settings, commit
from horkd.networks.imagenet import imagenet_name, start_backbone
from horkd.networks.network import Network, load_network, save_network
from horkd.networks.weights import digest, load_pretrained
from horkd.objectives import Frozen
from horkd.preprocess import Preprocess
from horkd.protocols import Says
from horkd.training import Diverged, State, batches_of, fit, new_state


def run(
    config: RunConfig,
    settings: Settings | None = None,
    runs: str | Path | None = None,
    control: Control | None = None,
) -> Run:
    """The finished run of a configuration: read if it is there, else trained, teachers first.

    Args:
        config: what to run.
        settings: how the machine should do it.
        runs: folder of all runs; `horkd.paths.runs_dir()` if None.
        control: how it is watched and stopped.

    Raises:
        Diverged: if the loss is, or was at an earlier try, no longer finite.
        TimeUp: if the deadline came first; nothing of the finished epochs is lost.
        Busy: if another process trains the same, and `control` says not to wait.
        KeyboardInterrupt: if `control` says to stop; the steps done so far are kept.
        HorkdError: if data are missing, photos change meanwhile, the disk refuses, and so on.
    """
    runs, control = Path(runs or paths.runs_dir()), control or Control()
    look_again(config.data)  # its photos are a part of the key
    folder = runs / config.name
    found = None
    with suppress(storage.DamagedFile):  # dealt with below, if nobody else is at work on it
        found = finished(config, folder)
    if found is not None:  # what is there needs no lock
        tidy(found)
        return found
    with lock(config, runs, control.wait):
        found = claim(config, folder)
        if found is not None:
            return found
        if config.weights:
            return _import(config, committed_file(config), settings, folder)
        return _train(config, settings or Settings(), folder, control)


def import_network(
    config: RunConfig,
    path: str | Path,
    settings: Settings | None = None,
    runs: str | Path | None = None,
) -> Run:
    """Bring a network that was trained elsewhere here, as a finished run to distil from.

    Args:
        config: its `weights` must be the file's digest.
        path: the weights file.
        settings: where to test it.
        runs: folder of all runs.

    Raises:
        HorkdError: if the file is another one, does not fit the architecture, or data are missing.
    """
    runs = Path(runs or paths.runs_dir())
    folder = runs / config.name
    found = digest(path)
    if found != config.weights:
        raise HorkdError(f"{path} has digest {found}, but the run asks for {config.weights}")
    with lock(config, runs):
        return claim(config, folder) or _import(config, path, settings, folder)


def _import(config: RunConfig, path: Path, settings: Settings | None, folder: Path) -> Run:
    data = load_dataset(config.data, config.per_class)
    started = time.monotonic()
    spec = prepare.network_spec(config, data)
    network = (load_network if config.classifier else load_pretrained)(path, spec)
    settings = (settings or Settings()).resolve(network)
    save_network(folder / "model.safetensors", network, key=config.key)
    files = {"model.safetensors": storage.tensor_digest(network.state_dict())}
    network = settings.place(load_network(folder / "model.safetensors"))
    results = data.protocol.judge(network, data, config.degradation, None)
    around = round(time.monotonic() - started, 3)
    rest = {
        "history": [],
        "training_images": 0,
        "seconds": {
            "total": 0.0, "epochs": [], "around_epochs": around, "frozen_answers_read": [],
        },
        "frozen_files": None,
    }  # fmt: skip
    size = prepare.input_size(config, data)
    return write_record(config, folder, results, network, size, settings, files, rest)


@dataclass
class _Job:
    """What a run is made of, once it is prepared.

    Attributes:
        config, data, settings, folder: what, from what, how and where to.
        train: the training images.
        state: where training stands.
        frozen_run: the run that is distilled from, or None.
        answers: what that says of the crops.
        started: `time.monotonic()` at the beginning, less what earlier calls took.
    """

    config: RunConfig
    data: Dataset
    settings: Settings
    folder: Path
    train: ImageSet | PhotoFiles
    state: State
    frozen_run: Run | None
    answers: Answers | None
    started: float

    @property
    def kept(self) -> Path:
        """The file of the unfinished state."""
        return self.folder / "state.safetensors"


def _train(config: RunConfig, settings: Settings, folder: Path, control: Control) -> Run:
    """Prepare, fit, judge, write."""
    commit()  # of the code that runs, not of whatever is checked out when it ends
    data = load_dataset(config.data, config.per_class)
    prepare.check(config, data)
    called = control.clock()
    frozen_run = run(config.frozen, settings, folder.parent, control) if config.frozen else None
    started = time.monotonic()
    if control.deadline is not None and called < control.deadline <= control.clock():
        raise TimeUp(f"time is up before the first epoch of {config.name}")
    job = _prepare(config, settings, folder, data, frozen_run, started)
    _fit(job, control)
    _refuse_other_photos(job)
    results, network, files = _judge(job)
    return _write(job, results, network, files)


def _prepare(
    config: RunConfig,
    settings: Settings,
    folder: Path,
    data: Dataset,
    frozen_run: Run | None,
    started: float,
) -> _Job:
    """Networks, objective and a state to go on from."""
    if frozen_run is not None:
        prepare.check_frozen(config, data)
    kept = folder / "state.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Network(prepare.network_spec(config, data))
        settings = as_before(settings, kept).resolve(network)
        answers = None
        if frozen_run is not None:
            frozen = Frozen(settings.place(frozen_run.network()))
            if config.start == "frozen":
                network.load_state_dict(frozen.network.state_dict())
            answers = prepare.answers_of(config, frozen_run, frozen, data, settings)
        train = prepare.training_set(config, data, settings)
        objective = prepare.objective_of(config, network, train, data, frozen_run, answers)
    state = new_state(settings.place(network), objective.to(settings.device), config.recipe)
    resumed = resume(state, kept, config)
    if config.backbone and not resumed:
        start_backbone(network, config.backbone)
    if settings.compile == "on":
        torch.compiler.reset()  # the networks of a queue share a limit on recompilations
        compiled(network.backbone)
        if answers is not None:
            compiled(answers.frozen.network.backbone)
    started -= sum(state.seconds) + state.elapsed
    return _Job(config, data, settings, folder, train, state, frozen_run, answers, started)


def compiled(module: torch.nn.Module) -> None:
    """Let a module compute by compiled code from now on."""
    module.compile()


def _fit(job: _Job, control: Control) -> None:
    """Train from wherever the state stands; a divergence is noted."""
    config, data, state, answers = job.config, job.data, job.state, job.answers
    learner_alone = not state.objective.distilled or (
        answers.folder is not None and not state.objective.needs_maps
    )
    scored = prepare.scored_images(config, data, job.settings)
    score = None
    if scored is not None:
        score = partial(
            data.protocol.score, images=scored, channels=data, degradation=config.degradation
        )
    saver = Saver(job.kept, config, job.settings, control)
    layout = job.settings.memory_format
    try:
        fit(
            state,
            batches_of(
                job.train, config.recipe, data.flip, config.degradation if learner_alone else None
            ),
            Preprocess.of(state.network, data, config.degradation, layout),
            config.recipe,
            job.settings,
            config.seed,
            answers=answers,
            score=score,
            metric=data.protocol.metric,
            warmup=config.warmup,
            label=config.name.rsplit("-", 1)[0],
            after_epoch=saver.after_epoch,
            after_step=saver.after_step,
            interruption=control.interruption,
        )
    except Diverged as error:
        note_divergence(config, job.folder, error, job.settings)
        raise


def _refuse_other_photos(job: _Job) -> None:
    """Refuse to record a run that saw photos before and after a change.

    Raises:
        HorkdError: if the folder's photos are no longer those that the run began with.
    """
    look_again(job.config.data)
    if job.config.name != job.folder.name:
        job.kept.unlink(missing_ok=True)
        raise HorkdError(
            f"the photos of {job.config.data} changed while {job.folder.name} was trained on "
            "them: nothing is recorded, run it again"
        )


def _judge(job: _Job) -> tuple[dict[str, object], Network, dict[str, str]]:
    """Write the checkpoint, and test what was written.

    A trial looks at the validation split instead.

    Returns:
        Results for the record, the network, and the digests of the files.
    """
    config, data, state, folder = job.config, job.data, job.state, job.folder
    protocol, seen = data.protocol, config.degradation
    last = None
    if config.select != "last":
        last = {n: t.detach().clone() for n, t in state.network.state_dict().items()}
        state.network.load_state_dict(state.best)
    # what `compile` changes is not in the state dict, so that this is the plain network
    save_network(folder / "model.safetensors", state.network, key=config.key)
    files = {"model.safetensors": storage.tensor_digest(state.network.state_dict())}
    network = job.settings.place(load_network(folder / "model.safetensors"))
    if config.trial:
        results = {"validation": protocol.score(network, data.validation, data, seen)}
    else:
        results = protocol.judge(network, data, seen, _says(job))
    if extras := state.objective.state_dict():
        path = folder / "objective.safetensors"
        files[path.name] = storage.save_tensors(path, extras, {"key": config.key})
    if state.best is not None and not (last is None and config.trial):
        results |= _of_other_epoch(job, network, last)
    return results, network, files


def _of_other_epoch(
    job: _Job, network: Network, last: dict[str, torch.Tensor] | None
) -> dict[str, object]:
    """The best epoch beside the last one that is the result, or the other way round."""
    config, data, state = job.config, job.data, job.state
    test = partial(data.protocol.test, data=data, degradation=config.degradation)
    best = {
        "epoch": state.best_epoch,
        "validation": state.history[state.best_epoch - 1]["validation"],
    }
    if last is None:
        network.load_state_dict(state.best)
        return {"best": best | {"test": test(network)}}
    network.load_state_dict(last)
    chosen = {"by": config.select, "epoch": state.best_epoch, "score": best["validation"]}
    if config.trial:
        return {"selected": chosen}
    found = {"epoch": state.epoch, "test": test(network, brief=True)}
    return {"selected": chosen, "last": found}


def _says(job: _Job) -> Says | None:
    """What the frozen model says of a split, if it classifies."""
    found = job.frozen_run
    if found is None or not found.config.classifies:
        return None
    return lambda split, images: prepare.says(
        found, job.settings.place(found.network()), job.data, split, images
    )


def _write(job: _Job, results: dict[str, object], network: Network, files: dict[str, str]) -> Run:
    """The record of a finished run."""
    config, data, state, frozen_run = job.config, job.data, job.state, job.frozen_run
    rest = {
        "history": state.history,
        "training_images": len(data.training(config.validation)),
        "seconds": {
            "total": sum(state.seconds),
            "epochs": state.seconds,
            # loading, centres, compiling, checkpoints and tests of the last call
            "around_epochs": round(time.monotonic() - job.started - sum(state.seconds), 3),
            "frozen_answers_read": state.remembered,  # epochs that did not run the frozen model
        },
        "frozen_files": frozen_run.record["files"] if frozen_run else None,
    }
    if len(commits := list(dict.fromkeys([*state.commits, commit()]))) > 1:
        rest["commits"] = commits  # of a run that was trained in parts; `commit` ended it
    if len(parts := with_present(state, job.settings)) > 1:
        rest["trained_in"] = parts
    if config.backbone == "imagenet":
        rest["backbone"] = imagenet_name(config.model)
    size = prepare.input_size(config, data)
    return write_record(config, job.folder, results, network, size, job.settings, files, rest)
