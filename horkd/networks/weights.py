"""Weights trained by others: a file becomes a `Network`, or the start of one.

Safetensors files are preferred. Pickles are read with `weights_only=True` alone, which runs no code
of the file. A file of this project's own (`horkd export`) says itself what it holds.

`load_pretrained` makes finished networks, teachers; `horkd.networks.imagenet.start_backbone` puts
weights into a network that is then trained.
"""

import functools
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from horkd import paths
from horkd.errors import HorkdError
from horkd.networks.network import ModelSpec, Network, in_float32, spec_from_dict
from horkd.storage import load_tensors

#: Where checkpoints keep the state dict, and what wrappers put before each name.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "backbone")

_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "encoder.", "trunk.")

#: What the embedding layer of a library's network is called here.
EMBEDDING = "embedding."

#: Layers after the features, which a network without classes has no use for.
CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "last_linear.", "logits.", "output.")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, without what wrappers put before every name.

    Args:
        path: `.safetensors`, or what torch.save made of a state dict or a dictionary with one.

    Raises:
        HorkdError: if the file is missing, damaged, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise HorkdError(
            f"there is no weights file {path}: give the path of a .safetensors file or of a "
            "state dict saved by torch.save"
        )
    if path.suffix.lower() == ".safetensors":
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
        names = [n for n in tensors if not n.startswith(CLASSIFIERS)]
        prefix = next((p for p in _PREFIXES if names and all(n.startswith(p) for n in names)), None)
        if prefix is None:
            return tensors
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}


def digest(path: str | Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256: which weights these are.

    Raises:
        HorkdError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise HorkdError(f"there is no weights file {path}")
    return sha256(path)[:16]


def sha256(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal digits."""
    path = Path(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_dir() -> Path | None:
    """Where weights files are looked for, if there is a data folder."""
    data = paths.data_dir()
    return None if data is None else data / "weights"


def file_of(weights: str, file: str | Path | None) -> Path:
    """The local file with this digest.

    Args:
        weights: the 16 digits.
        file: where it is; None looks through `$HORKD_DATA/weights`.

    Raises:
        HorkdError: if there is none, or `file` is another one.
    """
    if file is not None:
        found, file = digest(file), Path(file)
        if found != weights:
            raise HorkdError(f"{file} has digest {found}, but the run starts from {weights}")
        return file
    folder = weights_dir()
    if folder is None:
        raise HorkdError(
            f"no file with digest {weights} is at hand: name it, or put it into a folder `weights` "
            "in your data folder and set HORKD_DATA"
        )
    for path in sorted(p for p in folder.glob("*") if p.is_file()):
        stat = path.stat()
        if known_digest(path, stat.st_size, stat.st_mtime_ns) == weights:
            return path
    raise HorkdError(f"no file in {folder} has digest {weights}: put it there, or name it")


@functools.cache
def known_digest(path: str | Path, size: int, changed: int) -> str:
    """The digest of a file, computed once per process while size and time of change stay."""
    return digest(path)


def load_pretrained(path: str | Path, spec: ModelSpec) -> Network:
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
    path = Path(path)
    spec = replace(spec, num_classes=0)
    network = Network(spec)
    tensors = _own(path, spec)
    if tensors is None:
        tensors = read_weights(path)
    wanted = network.backbone.state_dict()
    called = renamed(spec, tensors)
    names = {name: called(name) for name in wanted}
    if f"{EMBEDDING}weight" in wanted:
        names, tensors = _with_embedding(path, spec, wanted, names, tensors)
    state = fit(path, spec.name, wanted, names, tensors)
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
    """`names` and `tensors` of `fit`, with the layer of a file that is the embedding."""
    weight, bias = f"{EMBEDDING}weight", f"{EMBEDDING}bias"
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


def fit(
    path: str | Path,
    model: str,
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    spare: tuple[str, ...] = CLASSIFIERS,
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


def renamed(spec: ModelSpec, tensors: Mapping[str, Tensor]):
    """How a file calls a tensor of the backbone: a library's network sits in `trunk`."""
    inside = ":" in spec.name and not any(name.startswith("trunk.") for name in tensors)
    return lambda name: name.removeprefix("trunk.") if inside else name
