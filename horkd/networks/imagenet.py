"""The libraries' ImageNet weights: found on disk, or downloaded."""

import functools
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from horkd import paths
from horkd.errors import HorkdError
from horkd.networks.library import LIBRARIES, refuse_unknown
from horkd.networks.network import ModelSpec, Network
from horkd.networks.weights import (
    _CLASSIFIERS,
    _EMBEDDING,
    _fit,
    _renamed,
    _sha256,
    digest,
    read_weights,
)

_TORCHVISIONS = "IMAGENET1K_V1"


#: Embedding layers in files of ours: of a library's network, and of the others.
_EMBEDDINGS = (_EMBEDDING, "3.")


@dataclass(frozen=True)
class _Published:
    """A file of a library's weights.

    Attributes:
        url: where it is published.
        name: what it is called on disk; says for itself which weights it holds.
        hub: repository and file on Hugging Face's hub, if it is there.
    """

    url: str
    name: str
    hub: tuple[str, str] | None = None

    @property
    def sha256(self) -> str:
        """What its SHA-256 begins with, as the name ends in torch hub's convention, or nothing."""
        found = re.search(r"-([a-f0-9]{8,})\.", self.name)
        return found[1] if found else ""


def imagenet_name(model: str) -> str:
    """Which of the library's weights `start_backbone` takes for "imagenet".

    `IMAGENET1K_V1` for torchvision's: the older ones, from which the metric-learning code published
    around 2019 starts. For timm the tag in the name, or else its default tag, whatever data that
    stands for: `a1_in1k` for `timm:resnet50`.

    Args:
        model: `torchvision:NAME` or `timm:NAME`.

    Raises:
        HorkdError: if there are no such weights.
    """
    _refuse_ours(model)
    if model.startswith("torchvision:"):
        _torchvision_files(model)
        return _TORCHVISIONS
    return _timm_entry(model).tag


def start_backbone(network: Network, weights: str, file: Path | None = None) -> None:
    """Put weights into a backbone, all but its embedding layer, in place.

    A classifier in the file is left out; everything else has to fit exactly. A network that is
    refused stays as it was.

    Args:
        network: a library's (`torchvision:NAME`, `timm:NAME`), or one of ours for a file of ours.
        weights: "imagenet" for the library's (`imagenet_name`), or the `digest` of a local file.
        file: where that file is; None looks through `$HORKD_DATA/weights`.

    Raises:
        HorkdError: if there are no such weights, they are not here and cannot be downloaded, the
            file is another one, or it does not fit.
    """
    model = network.spec.name
    if weights == "imagenet":
        if file is not None:
            raise HorkdError(
                f"to start from {file}, name its digest as the weights: {digest(file)}"
            )
        _refuse_ours(model)
        state = _imagenet(network)
    elif re.fullmatch(r"[0-9a-f]{16}", weights):
        path = _file_of(weights, file)
        tensors = read_weights(path)
        names = _renamed(network.spec, tensors)
        wanted = _start(network)
        spare = (*_CLASSIFIERS, *_EMBEDDINGS)
        state = _fit(path, model, wanted, {name: names(name) for name in wanted}, tensors, spare)
    else:
        raise HorkdError(
            f"unknown weights {weights!r}: choose imagenet, or the 16 digits of a file's digest"
        )
    network.backbone.load_state_dict(state, strict=False)


def _refuse_ours(model: str) -> None:
    """Let a library's network pass: only they have ImageNet weights."""
    architecture, _ = ModelSpec(model, 0).parse()
    if architecture.partition(":")[0] not in LIBRARIES:
        known = architecture in torchvision.models.list_models(module=torchvision.models)
        raise HorkdError(
            f"there are no ImageNet weights for {model}, an architecture for small images: "
            f"start from torchvision:{architecture if known else 'resnet18'}"
        )
    refuse_unknown(model)


def _start(network: Network) -> dict[str, Tensor]:
    """The tensors of a backbone without its embedding layer."""
    # ours are a Sequential whose layers are its first module; MobileFaceNet is one piece
    own = "trunk." if ":" in network.spec.name else "0."
    everything = network.backbone.state_dict()
    found = {name: t for name, t in everything.items() if name.startswith(own)}
    return found or everything


def _imagenet(network: Network) -> dict[str, Tensor]:
    """A library's ImageNet weights, under the names of the backbone."""
    model = network.spec.name
    torchvisions = model.startswith("torchvision:")
    choices = (_torchvision_files if torchvisions else _timm_files)(model)
    path = next(filter(None, map(_on_disk, choices)), None) or _download(model, choices[0])
    read = _as_torchvision_reads if torchvisions else _as_timm_reads
    tensors = read_weights(path)
    try:
        with torch.random.fork_rng(devices=[]):  # whoever trains next draws as if from scratch
            whole = read(model, tensors)
    except Exception as error:  # a library's filter of old names can fail in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # the second line begins the list of tensors, which may be hundreds
        first = lines[min(1, len(lines) - 1)].strip().partition(", ")[0].rstrip(".")
        raise HorkdError(f"{path} does not fit {model}: {first}") from None
    wanted = _start(network)
    names = {name: name.removeprefix("trunk.") for name in wanted}
    # what the library's network has beyond the trunk is its classifier
    return _fit(path, model, wanted, names, whole, spare=("",))


def _as_torchvision_reads(model: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of torchvision's whole network: old names in the file become today's."""
    # as torchvision.models.densenet does it; other networks do it in load_state_dict
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
    tensors = {old.sub(r"\1\2", name): t for name, t in tensors.items()}
    network = torchvision.models.get_model(model.partition(":")[2], weights=None)
    counters = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
    network.load_state_dict(counters | tensors)  # files older than PyTorch 0.4.1 have no counters
    return network.state_dict()


def _as_timm_reads(model: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of timm's whole network: its own filters bring old names and shapes up to date."""
    import timm

    network = timm.create_model(
        model.partition(":")[2], pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}
    )
    return network.state_dict()


def _torchvision_files(model: str) -> list[_Published]:
    """Where torchvision publishes the weights `IMAGENET1K_V1`."""
    architecture = model.partition(":")[2]
    entries = torchvision.models.get_model_weights(architecture).__members__
    if _TORCHVISIONS not in entries:
        raise HorkdError(
            f"torchvision has no weights {_TORCHVISIONS} for {architecture}, only "
            f"{', '.join(n for n in entries if n != 'DEFAULT') or 'none'}: take another network"
        )
    url = entries[_TORCHVISIONS].url
    return [_Published(url, PurePosixPath(urlparse(url).path).name)]


def _timm_entry(model: str):
    """What timm knows of the weights of that tag, or the default one."""
    import timm

    architecture = model.partition(":")[2]
    try:
        entry = timm.get_pretrained_cfg(architecture)
    except RuntimeError as error:  # an unknown tag
        raise HorkdError(f"timm: {error} timm.list_pretrained() names all") from None
    if entry is None or not (entry.url or entry.hf_hub_id):
        raise HorkdError(
            f"timm has no weights for {architecture}: timm.list_pretrained() names what has some"
        )
    return entry


def _timm_files(model: str) -> list[_Published]:
    """Where timm publishes these weights; the first is where to download them from."""
    entry = _timm_entry(model)
    found = []
    if entry.hf_hub_id:
        from huggingface_hub import hf_hub_url

        file = entry.hf_hub_filename or "model.safetensors"
        architecture = model.partition(":")[2].partition(".")[0]
        name = f"{architecture}.{entry.tag}{PurePosixPath(file).suffix}"
        url = hf_hub_url(entry.hf_hub_id, file)
        found.append(_Published(url, name, (entry.hf_hub_id, file)))
    if entry.url and not entry.custom_load:  # else of a format that only timm reads
        found.append(_Published(entry.url, PurePosixPath(urlparse(entry.url).path).name))
    if not found:
        raise HorkdError(f"the weights of {model} are in a format of their own: take another tag")
    return found


def _hub_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _weights_dir() -> Path | None:
    data = paths.data_dir()
    return None if data is None else data / "weights"


def _on_disk(published: _Published) -> Path | None:
    """A file of a library's weights, if it is here.

    Raises:
        HorkdError: if a file of that name is another one.
    """
    for folder in filter(None, (_hub_cache(), _weights_dir())):
        path = folder / published.name
        if path.is_file():
            found = _sha256(path) if published.sha256 else ""
            if not found.startswith(published.sha256):
                raise HorkdError(
                    f"{path} is damaged or another file: its SHA-256 begins with "
                    f"{found[: len(published.sha256)]}, not {published.sha256}; download "
                    f"{published.url} again"
                )
            return path
    if published.hub is not None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(*published.hub)
        return Path(cached) if isinstance(cached, str) else None
    return None


def _download(model: str, published: _Published) -> Path:
    """Fetch a file into the cache of torch hub or, from there, of Hugging Face's hub.

    Raises:
        HorkdError: if the server does not answer, or sends something else.
    """
    reason = f"{urlparse(published.url).netloc} does not answer"
    if _answers(published.url):
        try:
            if published.hub is not None:
                from huggingface_hub import hf_hub_download

                return Path(hf_hub_download(*published.hub))
            path = _hub_cache() / published.name
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                published.url, str(path), published.sha256 or None, progress=False
            )
            return path
        except Exception as error:  # a network can fail in any way
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    folder = _weights_dir()
    raise HorkdError(
        f"the ImageNet weights of {model} are not here and could not be downloaded ({reason}): "
        f"fetch {published.url} elsewhere and save it as "
        f"{(folder or _hub_cache()) / published.name}"
    )


def _answers(url: str, seconds: float = 3.0) -> bool:
    """Whether a server answers within that time: libraries try for a minute before they give up."""
    found = []
    parts = urlparse(url)
    server = urllib.request.Request(f"{parts.scheme}://{parts.netloc}/", method="HEAD")

    def ask() -> None:
        try:
            urllib.request.urlopen(server, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an answer; what it says is for the download to tell
        except (OSError, ValueError):
            return
        found.append(True)

    # beside this thread, as looking up a name heeds no timeout
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return bool(found)


def _file_of(weights: str, file: Path | None) -> Path:
    """The local file with this digest.

    Raises:
        HorkdError: if there is none, or `file` is another one.
    """
    if file is not None:
        found = digest(file)
        if found != weights:
            raise HorkdError(f"{file} has digest {found}, but the run starts from {weights}")
        return file
    folder = _weights_dir()
    if folder is None:
        raise HorkdError(
            f"no file with digest {weights} is at hand: name it, or put it into a folder `weights` "
            "in your data folder and set HORKD_DATA"
        )
    for path in sorted(p for p in folder.glob("*") if p.is_file()):
        stat = path.stat()
        if _known_digest(path, stat.st_size, stat.st_mtime_ns) == weights:
            return path
    raise HorkdError(f"no file in {folder} has digest {weights}: put it there, or name it")


@functools.cache
def _known_digest(path: Path, size: int, changed: int) -> str:
    """The digest of a file, computed once per process while size and time of change stay."""
    return digest(path)
