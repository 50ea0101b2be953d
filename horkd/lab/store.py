"""Finished runs on disk: records, checkpoints, exports, and runs that diverged."""

import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from horkd import paths, storage
from horkd.data import Dataset, load_dataset, look_again
from horkd.errors import HorkdError
from horkd.lab.config import FORMAT, RunConfig
from horkd.machine import Settings, commit, describe_machine, latency, versions
from horkd.networks.network import Network, load_network, macs, parameters, save_network
from horkd.networks.weights import digest
from horkd.training import Diverged


@dataclass(frozen=True)
class Run:
    """A finished run."""

    config: RunConfig
    folder: Path
    record: dict

    def network(self) -> Network:
        """The trained network (of the epoch that counts), in eval mode, on the CPU."""
        return load_network(self.folder / "model.safetensors")

    @property
    def trained_in(self) -> list[dict[str, str]]:
        """Precision, device and version of torch, which can change the numbers of a configuration.

        Several for a run that went on elsewhere, none for a network that others trained.
        """
        if self.config.weights:
            return []
        record = self.record
        one = {
            "precision": record.get("settings", {}).get("precision"),
            "device": record["machine"].get("device"),
            "torch": record.get("versions", {}).get("torch"),
        }
        parts = record.get("trained_in", [one])
        return [{name: v for name, v in part.items() if v is not None} for part in parts]

    def centers(self) -> Tensor | None:
        """The frozen model's class centres (C, D) that this run was trained with, or None."""
        path = self.folder / "objective.safetensors"
        tensors = storage.load_tensors(path)[0] if path.is_file() else {}
        return tensors.get("relational.centers")


#: What `unlike` calls the parts of `Run.trained_in`.
_NAMES = {"precision": "precision", "device": "device", "torch": "version of torch"}


def unlike(trained_in: Iterable[Sequence[Mapping[str, str]]]) -> str:
    """In a sentence, in what networks differ besides what is studied; empty if in nothing.

    Args:
        trained_in: of each network (`Run.trained_in`): precision, device, version of torch. One
            that was trained in parts is counted with each of them.
    """
    networks, said = list(trained_in), []
    for name, words in _NAMES.items():
        counts = Counter(
            value for parts in networks for value in {part[name] for part in parts if name in part}
        )
        if len(counts) > 1:
            each = ", ".join(f"{value} ({counts[value]})" for value in sorted(counts, key=str))
            said.append(f"{words}: {each}")
    if not said:
        return ""
    return (
        f"**Not all runs were trained alike** (in parentheses, how many): {'; '.join(said)}. Part "
        "of a difference between unlike runs may come from that."
    )


def committed_file(config: RunConfig) -> Path:
    """The weights file of a given network among those that come with the reports.

    Raises:
        HorkdError: if it is not among them.
    """
    folders = dict.fromkeys((paths.published_dir(), paths.reports_dir()))
    for path in (p for folder in folders for p in sorted(folder.glob("*/models/*.safetensors"))):
        if digest(path) == config.weights:
            return path
    raise HorkdError(
        f"the weights {config.weights} of {config.model} are not imported yet, and no report has "
        "them: give their file with --teacher-weights"
    )


def read(config: RunConfig, runs: str | Path | None = None) -> Run | None:
    """The run of a configuration if it is finished and whole, else None.

    Trains and changes nothing: a folder that is incomplete or damaged, maybe because it is still
    being copied, is left as it is, with a warning.
    """
    runs = Path(runs or paths.runs_dir())
    try:
        return finished(config, runs / config.name)
    except storage.DamagedFile as error:
        warnings.warn(  # once, whoever asks
            f"{config.name} is incomplete or damaged and does not count ({error})", stacklevel=1
        )
        return None


def recorded(config: RunConfig, runs: str | Path | None = None) -> Run | None:
    """A run by its record alone, in moments: whether its other files are whole is not looked at."""
    folder = Path(runs or paths.runs_dir()) / config.name
    try:
        record = storage.load_json(folder / "record.json")
    except HorkdError:
        return None
    return Run(config, folder, record) if record.get("key") == config.key else None


def damage(config: RunConfig, runs: str | Path | None = None) -> str:
    """What is wrong with the files of a run that has a record; empty if nothing is."""
    try:
        finished(config, Path(runs or paths.runs_dir()) / config.name)
    except storage.DamagedFile as error:
        return str(error)
    return ""


def data_of(done: Run) -> Dataset:
    """The data set that a run was trained on.

    Raises:
        HorkdError: if it is missing, or has other photos by now.
    """
    config = done.config
    look_again(config.data)
    if config.key != done.record["key"]:
        raise HorkdError(
            f"the photos of {config.data} have changed since {done.folder.name} was trained on "
            "them: train it again, or put the former ones there"
        )
    return load_dataset(config.data, config.per_class)


def refuse_trial(done: Run) -> None:
    """Refuse to look at test images with a run that settings are chosen by.

    Raises:
        HorkdError: if it is one.
    """
    if done.config.trial:
        raise HorkdError(
            f"{done.config.name} is a trial, by which settings are chosen: it never looks at "
            "the test images"
        )


def export(
    done: Run, path: str | Path, bits: int = 16, settings: Settings | None = None
) -> dict[str, object]:
    """Write a run's network for others to use, with all that a prediction needs.

    The header holds the network's specification, class names (if it has a classifier), degradation,
    channel statistics, test results, the key of the record and that of the frozen model it learned
    from (None: labels only). `horkd.networks.network.load_network` reads it back in float32. A file
    of 8 bits is tested before it is written: its header says what the run gave and, as `rounded`,
    what the file gives.

    Args:
        done: the run.
        path: the file.
        bits: of a weight: 16, 8 or 32 (`horkd.networks.network.save_network`).
        settings: where a file of 8 bits is tested.

    Returns:
        The test results of the run, and with 8 bits those of the file as `rounded`.

    Raises:
        HorkdError: if the data set, for its class names, or the disk is not there.
    """
    refuse_trial(done)
    config, record = done.config, done.record
    data = data_of(done)
    header = {
        "key": config.key,
        "learned_from": config.frozen.key if config.frozen else None,
        "data": config.data,
        "classes": list(data.train.classes) if config.classifies else [],
        "size": data.size,
        "degradation": asdict(config.degradation),
        "mean": list(data.mean),
        "std": list(data.std),
        "test": record["results"]["test"],
        "trained_in": done.trained_in,
    }
    results: dict[str, object] = {"test": header["test"]}
    if bits == 8:
        with tempfile.TemporaryDirectory() as folder:
            rounded = Path(folder) / "rounded.safetensors"
            save_network(rounded, done.network(), bits)
            network = load_network(rounded)
        settings = (settings or Settings()).resolve(network)
        results["rounded"] = data.protocol.test(settings.place(network), data, config.degradation)
        header["rounded"] = results["rounded"]
    save_network(path, done.network(), bits, **header)
    return results


def diverged(config: RunConfig, runs: str | Path | None = None) -> dict | None:
    """What is known of a run whose loss was no longer finite (`epoch`, `terms`, …), else None.

    Changes nothing; a damaged note says nothing.
    """
    path = Path(runs or paths.runs_dir()) / config.name / "diverged.json"
    if not path.is_file():
        return None
    try:
        note = storage.load_json(path)
    except storage.DamagedFile as error:
        warnings.warn(f"{error}, and is left as it is", stacklevel=1)
        return None
    return note if note.get("key") == config.key else None


def finished(config: RunConfig, folder: str | Path) -> Run | None:
    """The run in `folder`; None if there is no record. Changes nothing.

    Raises:
        DamagedFile: if there is one, and it or a file that it names is missing, cut off, altered
            or of another run.
    """
    folder = Path(folder)
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = storage.load_json(path)
    if record.get("key") != config.key:
        raise storage.DamagedFile(f"{path} is the record of another configuration")
    for name, digest_ in record["files"].items():
        if not (folder / name).is_file():
            raise storage.DamagedFile(f"there is no file {folder / name}")
        tensors, _ = storage.load_tensors(folder / name)
        if storage.tensor_digest(tensors) != digest_:
            raise storage.DamagedFile(f"{folder / name} is not the file of its record")
    return Run(config, folder, record)


def lock(config: RunConfig, runs: str | Path, wait: bool = True) -> AbstractContextManager[None]:
    """One process at a time trains a run, and only that one changes its folder.

    Raises:
        Busy: if another does and `wait` is False.
        HorkdError: if the folder of runs cannot be written to.
    """
    return storage.locked(Path(runs) / ".locks" / f"{config.key}.lock", wait)


def claim(config: RunConfig, folder: str | Path) -> Run | None:
    """The finished run in `folder`, for one who holds its lock and is about to train it otherwise.

    What is damaged is set aside.

    Raises:
        Diverged: if the run is known to diverge.
    """
    folder = Path(folder)
    try:
        found = finished(config, folder)
    except storage.DamagedFile as error:
        storage.set_aside(folder, str(error))
        return None
    if found is None and not config.weights:
        _refuse_diverged(config, folder)
    return found


def _refuse_diverged(config: RunConfig, folder: Path) -> None:
    path = folder / "diverged.json"
    try:
        note = storage.load_json(path) if path.is_file() else {}
    except storage.DamagedFile as error:
        storage.set_aside(path, str(error))
        return
    if note.get("key") == config.key:
        terms = {name: float(value) for name, value in note["terms"].items()}
        raise Diverged(note["epoch"], terms, f"known from {path}, remove it to try again")


def tidy(done: Run) -> None:
    """Remove the state that a run left which was stopped between its record and the end of it."""
    state = done.folder / "state.safetensors"
    if state.is_file():
        with suppress(HorkdError, OSError), lock(done.config, done.folder.parent, wait=False):
            state.unlink(missing_ok=True)


def note_divergence(
    config: RunConfig, folder: str | Path, error: Diverged, settings: Settings
) -> None:
    """Leave a record of the failure: it is a result, and not worth a second try."""
    folder = Path(folder)
    note = {
        "format": FORMAT,
        "key": config.key,
        "name": config.name,
        "config": asdict(config),
        "epoch": error.epoch,
        "terms": {name: str(value) for name, value in error.terms.items()},  # JSON has no NaN
        "machine": describe_machine(settings.device),
        "versions": versions(),
        "commit": commit(),
    }
    storage.save_json(folder / "diverged.json", note)
    (folder / "state.safetensors").unlink(missing_ok=True)


def write_record(
    config: RunConfig,
    folder: str | Path,
    results: dict[str, object],
    network: Network,
    size: int,
    settings: Settings,
    files: dict[str, str],
    rest: dict[str, object],
) -> Run:
    """Write what is known of a finished run."""
    folder = Path(folder)
    record = {
        "format": FORMAT,
        "key": config.key,
        "name": config.name,
        "config": asdict(config),
        "results": results,
        "cost": {
            "parameters": parameters(network),
            "macs": macs(network, size),
            "latency_ms": round(latency(network, size), 3),
        },
        "settings": {k: v for k, v in asdict(settings).items() if k != "progress"},
        "machine": describe_machine(settings.device),
        "versions": versions(),
        "commit": commit(),
        "files": files,
        **rest,
    }
    record = json.loads(json.dumps(record))  # as it will be read: tuples become lists
    storage.save_json(folder / "record.json", record)
    (folder / "state.safetensors").unlink(missing_ok=True)
    return Run(config, folder, record)
