"""What a backbone starts from: its library's ImageNet weights, or a file known by its digest.

A library's file is looked for in torch hub's cache, Hugging Face's (timm) and
`$HORKD_DATA/weights`, else downloaded by torch or huggingface_hub. The hash in its name is checked,
it is never unpickled with code, and the library's own network reads it: that knows its old names.
"""

import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import Tensor

from horkd.errors import HorkdError
from horkd.networks.library import LIBRARIES, refuse_unknown
from horkd.networks.network import ModelSpec, Network
from horkd.networks.weights import (
    CLASSIFIERS,
    EMBEDDING,
    digest,
    file_of,
    fit,
    read_weights,
    renamed,
    sha256,
    weights_dir,
)

_TORCHVISIONS = "IMAGENET1K_V1"

#: Embedding layers in files of ours: of a library's network, and of the others.
_EMBEDDINGS = (EMBEDDING, "3.")


@dataclass(frozen=True)
class Published:
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
    def begins(self) -> str:
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
        published(model)
        return _TORCHVISIONS
    return _timm_entry(model).tag


def start_backbone(network: Network, weights: str, file: str | Path | None = None) -> None:
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
    wanted = _start(network)
    if weights == "imagenet":
        if file is not None:
            raise HorkdError(
                f"to start from {file}, name its digest as the weights: {digest(file)}"
            )
        _refuse_ours(model)
        files = published(model)
        path = next(filter(None, map(_on_disk, files)), None) or download(model, files[0])
        tensors = _as_the_library_reads(path, model)
        names = {name: name.removeprefix("trunk.") for name in wanted}
        spare = ("",)  # what the library's network has beyond the trunk is its classifier
    elif re.fullmatch(r"[0-9a-f]{16}", weights):
        path = file_of(weights, file)
        tensors = read_weights(path)
        called = renamed(network.spec, tensors)
        names = {name: called(name) for name in wanted}
        spare = (*CLASSIFIERS, *_EMBEDDINGS)
    else:
        raise HorkdError(
            f"unknown weights {weights!r}: choose imagenet, or the 16 digits of a file's digest"
        )
    network.backbone.load_state_dict(fit(path, model, wanted, names, tensors, spare), strict=False)


def _refuse_ours(model: str) -> None:
    """Let a library's network pass: only they have ImageNet weights."""
    architecture, _ = ModelSpec(model, 0).parse()
    if architecture.partition(":")[0] not in LIBRARIES:
        from torchvision import models  # slow to import, as below

        known = architecture in models.list_models(module=models)
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
    return {name: t for name, t in everything.items() if name.startswith(own)} or everything


# A library's files ----------------------------------------------------------------------------


def published(model: str) -> list[Published]:
    """Where a library publishes ImageNet weights; the first is where to download them from.

    Raises:
        HorkdError: if there are no such weights, or in a format that only timm reads.
    """
    architecture = model.partition(":")[2]
    if model.startswith("torchvision:"):
        from torchvision import models

        entries = models.get_model_weights(architecture).__members__
        if _TORCHVISIONS not in entries:
            raise HorkdError(
                f"torchvision has no weights {_TORCHVISIONS} for {architecture}, only "
                f"{', '.join(n for n in entries if n != 'DEFAULT') or 'none'}: take another network"
            )
        return [_release(entries[_TORCHVISIONS].url)]
    entry, found = _timm_entry(model), []
    if entry.hf_hub_id:
        from huggingface_hub import hf_hub_url

        file = entry.hf_hub_filename or "model.safetensors"
        name = f"{architecture.partition('.')[0]}.{entry.tag}{PurePosixPath(file).suffix}"
        hub = (entry.hf_hub_id, file)
        found.append(Published(hf_hub_url(*hub), name, hub))
    if entry.url and not entry.custom_load:
        found.append(_release(entry.url))
    if not found:
        raise HorkdError(f"the weights of {model} are in a format of their own: take another tag")
    return found


def _release(url: str) -> Published:
    return Published(url, PurePosixPath(urlparse(url).path).name)


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


def _as_the_library_reads(path: Path, model: str) -> dict[str, Tensor]:
    """The state of a library's whole network, made by itself from a file of its weights."""
    tensors = read_weights(path)
    read = as_torchvision_reads if model.startswith("torchvision:") else _as_timm_reads
    try:
        with torch.random.fork_rng(devices=[]):  # whoever trains next draws as if from scratch
            return read(model.partition(":")[2], tensors)
    except Exception as error:  # a library's filter of old names can fail in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # the second line begins the list of tensors, which may be hundreds
        first = lines[min(1, len(lines) - 1)].strip().partition(", ")[0].rstrip(".")
        raise HorkdError(f"{path} does not fit {model}: {first}") from None


def _torchvisions(architecture: str) -> torch.nn.Module:
    from torchvision import models

    return models.get_model(architecture, weights=None)


def as_torchvision_reads(architecture: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of torchvision's whole network: old names in the file become today's."""
    # as torchvision.models.densenet does it; other networks do it in load_state_dict
    old = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
    tensors = {old.sub(r"\1\2", name): t for name, t in tensors.items()}
    network = _torchvisions(architecture)
    counters = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
    network.load_state_dict(counters | tensors)  # files older than PyTorch 0.4.1 have no counters
    return network.state_dict()


def _as_timm_reads(architecture: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    import timm

    return timm.create_model(
        architecture, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}
    ).state_dict()


# On disk, or from the network --------------------------------------------------------------------


def _hub_cache() -> Path | None:
    """Where torch hub keeps files; None where no home is known: its path would begin with `~`."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return None if folder.parts[0].startswith("~") else folder


def _on_disk(file: Published) -> Path | None:
    """A file of a library's weights, if it is here.

    Raises:
        HorkdError: if a file of that name is another one.
    """
    for folder in filter(None, (_hub_cache(), weights_dir())):
        path = folder / file.name
        if path.is_file():
            found = sha256(path) if file.begins else ""
            if not found.startswith(file.begins):
                raise HorkdError(
                    f"{path} is damaged or another file: its SHA-256 begins with "
                    f"{found[: len(file.begins)]}, not {file.begins}; download {file.url} again"
                )
            return path
    if file.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(*file.hub)
    return Path(cached) if isinstance(cached, str) else None


def download(model: str, file: Published) -> Path:
    """Fetch a file into the cache of torch hub or, from there, of Hugging Face's hub.

    Raises:
        HorkdError: if the server does not answer within seconds, or sends something else.
    """
    cache = _hub_cache()
    try:
        if cache is None:
            raise OSError("no home folder is known for them: set HOME, or TORCH_HOME and HF_HOME")
        path = cache / file.name
        if not _answers(file.url):
            raise OSError(f"{urlparse(file.url).netloc} does not answer")
        if file.hub is not None:
            return _from_hub(*file.hub)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(file.url, str(path), file.begins or None, progress=False)
        return path
    except Exception as error:  # a network can fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise HorkdError(
            f"the ImageNet weights of {model} are not here and could not be downloaded ({reason}): "
            f"fetch {file.url} elsewhere and save it as "
            f"{(weights_dir() or cache or Path('$HORKD_DATA/weights')) / file.name}"
        ) from None


def _from_hub(repository: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name))


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
