"""Weights trained by others: a file becomes a `Network`, or the start of one.

Safetensors files are preferred. Pickles are read with `weights_only=True` alone, which runs no code
of the file. A file of this project's own (`horkd export`) says itself what it holds.

`load_pretrained` makes finished networks, teachers; `start_backbone` puts weights into a network
that is then trained. The libraries' ImageNet weights are looked for on disk first, in torch hub's
cache, Hugging Face's (timm) and `$HORKD_DATA/weights`, then downloaded.
"""

import functools
import hashlib
import re
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
import torchvision
from safetensors import SafetensorError, safe_open
from torch import Tensor

from horkd import paths
from horkd.errors import HorkdError
from horkd.models import (
    LIBRARIES,
    ModelSpec,
    Network,
    in_float32,
    refuse_unknown,
    spec_from_dict,
)
from horkd.storage import load_tensors

#: Where checkpoints keep the state dict, and what wrappers put before each name.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "backbone")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "encoder.", "trunk.")
#: What the embedding layer of a library's network is called here.
_EMBEDDING = "embedding."
#: Layers after the features, which a network without classes has no use for.
_CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "last_linear.", "logits.", "output.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, without what wrappers put before every name.

    Args:
        path: `.safetensors`, or what torch.save made of a state dict or a dictionary with one.

    Raises:
        HorkdError: if the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise HorkdError(
            f"there is no weights file {path}: give the path of a .safetensors file or of a "
            "state dict saved by torch.save"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise HorkdError(f"{path} is not a whole safetensors file ({error})") from None
    else:
        tensors = _unpickle(path)
    return _without_prefix(tensors)


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HorkdError(
            f"{path} is not a plain file of weights ({line[:120]}): save the state dict alone, as "
            "safetensors or with torch.save(model.state_dict(), …)"
        ) from None
    for _ in range(4):  # how deep wrappers nest
        inside = [content.get(key) for key in _NESTED] if isinstance(content, Mapping) else []
        content = next((c for c in inside if isinstance(c, Mapping)), content)
    found = _tensors(content) if isinstance(content, Mapping) else {}
    if not found:
        raise HorkdError(f"{path} holds no state dict: no tensors by name in it")
    return found


def _tensors(content: Mapping) -> dict[str, Tensor]:
    return {str(name): t for name, t in content.items() if isinstance(t, Tensor)}


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes that all of them, but for those of a classifier, share."""
    while True:
        names = [n for n in tensors if not n.startswith(_CLASSIFIERS)]
        prefix = next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256: which weights these are.

    Raises:
        HorkdError: if there is no such file.
    """
    if not path.is_file():
        raise HorkdError(f"there is no weights file {path}")
    return _sha256(path)[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_pretrained(path: Path, spec: ModelSpec) -> Network:
    """A network with the weights of a file, in float32, in eval mode.

    A classifier in the file is left out; everything else has to fit exactly. Where a library's
    network is to end in an embedding, the file's one linear layer of that shape is it, whatever
    it is called.

    Args:
        path: as in `read_weights`, or a file written by `horkd export`.
        spec: the architecture the file is of. Its `num_classes` does not count: the network gives
            features only.

    Raises:
        HorkdError: as `read_weights`, or if the file does not fit the architecture.
    """
    spec = replace(spec, num_classes=0)
    network = Network(spec)
    tensors = _own(path, spec)
    if tensors is None:
        tensors = read_weights(path)
    wanted = network.backbone.state_dict()
    renamed = _renamed(spec, tensors)
    names = {name: renamed(name) for name in wanted}
    if f"{_EMBEDDING}weight" in wanted:
        names, tensors = _with_embedding(path, spec, wanted, names, tensors)
    state = _fit(path, spec.name, wanted, names, tensors)
    known = set(names.values())
    left = [n for n in tensors if n not in known and tensors[n].ndim == 2]
    if left:
        shape = "×".join(map(str, tensors[left[0]].shape))
        warnings.warn(
            f"{path.name}: {left[0]} ({shape}) is taken for a classifier and left out; features "
            f"are {network.width} wide",
            stacklevel=2,
        )
    network.backbone.load_state_dict(state)
    return network.eval()


def _with_embedding(
    path: Path,
    spec: ModelSpec,
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    tensors: dict[str, Tensor],
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """`names` and `tensors` of `_fit`, with the layer of a file that is the embedding."""
    weight, bias = f"{_EMBEDDING}weight", f"{_EMBEDDING}bias"
    shape = wanted[weight].shape
    taken = {name for ours, name in names.items() if ours not in (weight, bias)}
    there = [
        name
        for name, t in tensors.items()
        if name.endswith(".weight") and name not in taken and t.shape == shape
    ]
    if len(there) != 1:
        raise HorkdError(
            f"{path} has {len(there)} linear layers of {shape[0]}×{shape[1]} after {spec.name}: "
            "the embedding must be one"
        )
    offset = f"{there[0].removesuffix('weight')}bias"
    zeros = {} if offset in tensors else {offset: torch.zeros_like(wanted[bias])}
    return {**names, weight: there[0], bias: offset}, tensors | zeros


def _fit(
    path: Path,
    model: str,
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    spare: tuple[str, ...] = _CLASSIFIERS,
) -> dict[str, Tensor]:
    """The tensors of a file under the names that are wanted.

    Args:
        path: the file.
        model: what it should be of.
        wanted: tensors of the shapes that are wanted.
        names: how the file calls each.
        tensors: of the file.
        spare: how names begin that the file may have beyond those.

    Raises:
        HorkdError: if a tensor is missing, too many, of another shape or not finite.
    """
    state, missing = {}, []
    for name, target in wanted.items():
        source = tensors.get(names[name])
        if source is None and name.endswith("num_batches_tracked"):
            state[name] = target
        elif source is None:
            missing.append(names[name])
        elif source.shape != target.shape:
            raise HorkdError(
                f"{path} does not fit {model}: {names[name]} is {tuple(source.shape)} there, "
                f"not {tuple(target.shape)}"
            )
        else:
            state[name] = source
    if missing:
        raise HorkdError(
            f"{path} does not fit {model}: {len(missing)} of {len(wanted)} tensors are not in "
            f"it, the first is {missing[0]} (the file has {', '.join(list(tensors)[:3])}, …)"
        )
    known = set(names.values())
    extra = [n for n in tensors if n not in known and not n.startswith(spare)]
    if extra:
        raise HorkdError(
            f"{path} does not fit {model}: it has {len(extra)} more tensors, the first is "
            f"{extra[0]}"
        )
    if not all(t.isfinite().all() for t in state.values() if t.is_floating_point()):
        raise HorkdError(f"{path} holds numbers that are not finite")
    return state


def _own(path: Path, spec: ModelSpec) -> dict[str, Tensor] | None:
    """The backbone of a file that `horkd export` wrote; None for any other file.

    Raises:
        HorkdError: if it is of another architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if "horkd" not in (file.metadata() or {}):
                return None
    except (SafetensorError, OSError):
        return None
    tensors, metadata = load_tensors(path)
    found = spec_from_dict(metadata.get("spec", {"name": "nothing", "num_classes": 0}))
    if found.name != spec.name or _width(found) != _width(spec):
        held = found.name if found.embedding is None else f"{found.name}@{found.embedding}"
        raise HorkdError(
            f"{path} holds {found.name} with embedding {found.embedding}, not {spec.name} with "
            f"{spec.embedding}: name what it holds ({held})"
        )
    if found.unit != spec.unit:
        held, asked = ("of unit length" if s.unit else "of any length" for s in (found, spec))
        raise HorkdError(f"{path} holds a network with features {held}, not {asked}: name that")
    return {
        name.removeprefix("backbone."): t
        for name, t in in_float32(tensors).items()
        if name.startswith("backbone.")
    }


def _width(spec: ModelSpec) -> int | None:
    """Width of the embedding, if there is one: MobileFaceNet has one anyway."""
    return spec.embedding or (128 if spec.name.startswith("mobilefacenet") else None)


def _renamed(spec: ModelSpec, tensors: Mapping[str, Tensor]):
    """How a file calls a tensor of the backbone: a library's network sits in `trunk`."""
    inside = ":" in spec.name and not any(name.startswith("trunk.") for name in tensors)
    return lambda name: name.removeprefix("trunk.") if inside else name


# Weights to start from

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
