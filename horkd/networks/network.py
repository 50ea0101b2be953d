"""Networks for small images and faces. All return features and logits.

A name is an architecture and, after `x`, a width multiplier: `resnet50`, `resnet34x0.6`.

| name | what | width 1 |
|---|---|---|
| resnet18, resnet34 | four stages of basic blocks, 3×3 stem, no max-pool | 64, 128, 256, 512 |
| resnet50 | four stages of bottlenecks, 3×3 stem, no max-pool | 64, 128, 256, 512 (×4) |
| vgg11 | eight 3×3 convolutions with BatchNorm; pools that no longer fit are dropped | 64 … 512 |
| resnet8, 14, 20, 32 | the ResNet paper's CIFAR networks: three stages of n blocks | 16, 32, 64 |
| mobilefacenet | for faces of 112 px: inverted residuals, 7×7 depthwise end | 64, 128, 512 |
| torchvision:NAME | that library's network, without its last linear layer | |
| timm:NAME | the same for timm | |

The paper's networks are resnet50, resnet18, vgg11 and, for faces, a "simplified" ResNet34 of 7.8 M
parameters, which we take to be `resnet34x0.6` with a 512-d embedding: 7.83 M; an inference.
Networks of torchvision and timm serve as teachers, and as backbones that start from ImageNet
weights (`horkd.networks.imagenet`). Their ResNets show the maps of their four stages, the others
none.
The 3×3 stem of stride 1 replaces ImageNet's 7×7 of stride 2, which loses about ten points at 32 px.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from horkd.checks import as_its_weights, is_tensor, plain_fields, same_device
from horkd.errors import HorkdError
from horkd.networks.architectures import ARCHITECTURES, build
from horkd.networks.library import LIBRARIES, Library
from horkd.storage import load_tensors, save_tensors

Statistics = tuple[float, float, float]


class Output(NamedTuple):
    """What every network returns."""

    features: Tensor  # (N, D), after the last pooling, before the classifier; see ModelSpec.unit
    logits: Tensor  # (N, C)
    maps: tuple[Tensor, ...] = ()  # (N, K, H, W) at the end of each stage, where asked for


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build a network again.

    Attributes:
        name: architecture with an optional width multiplier, as in this module's table.
        num_classes: outputs of the classifier; 0 for a network that only gives features.
        embedding: width of a linear layer between pooling and classifier, or None for none; its
            output is then the feature. MobileFaceNet ends in such a layer anyway, 128 wide.
        mean, std: channel statistics (scale 0 to 1) that the network expects of its images, if they
            are not those of the data set.
        unit: features are scaled to unit length (L2), and the classifier, if any, sees those.
    """

    name: str
    num_classes: int
    embedding: int | None = None
    mean: Statistics | None = None
    std: Statistics | None = None
    unit: bool = False

    def __post_init__(self) -> None:
        plain_fields(self)

    def parse(self) -> tuple[str, float]:
        """(architecture, width multiplier); a library's network keeps its whole name, width 1.

        Raises:
            HorkdError: if the name is not one of this module's.
        """
        if self.name.partition(":")[0] in LIBRARIES:
            return self.name, 1.0
        match = re.fullmatch(r"([a-z]+\d*)(?:x(\d+(?:\.\d+)?))?", self.name)
        if match is None or match[1] not in ARCHITECTURES or float(match[2] or 1) <= 0:
            raise HorkdError(
                f"unknown model {self.name!r}: choose from {', '.join(ARCHITECTURES)}, with a "
                "width multiplier if you like, as in resnet18x0.5, or torchvision:NAME, timm:NAME"
            )
        return match[1], float(match[2] or 1)


class Network(nn.Module):
    """Backbone, pooling, optional embedding, and one linear classifier if there are classes.

    Example:
        >>> out = Network(ModelSpec("resnet8", 10))(torch.zeros(2, 3, 16, 16), maps=True)
        >>> out.features.shape, out.logits.shape, [m.shape[1:] for m in out.maps]
        (torch.Size([2, 64]), torch.Size([2, 10]), [torch.Size([16, 16, 16]), \
        torch.Size([32, 8, 8]), torch.Size([64, 4, 4])])

    Args:
        spec: what to build.

    Attributes:
        width: D, the width of the features.
        channels: K of the map at the end of each stage.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        # Ends at the features, so that gradients there stay within reach of who measures them.
        name, width = spec.parse()
        self.backbone = (
            Library(name, spec.embedding) if ":" in name else build(name, width, spec.embedding)
        )
        self.width, self.channels = self.backbone.width, self.backbone.channels
        self.classifier = nn.Linear(self.width, spec.num_classes) if spec.num_classes else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, maps: bool = False) -> Output:
        """Features (N, D), logits (N, C) and, if wanted, maps of normalised images (N, 3, H, W).

        All is computed in the precision of the weights, or by autocast in its own.

        Raises:
            HorkdError: if the images are of another shape, not normalised, or on another device, or
                it is in training mode and BatchNorm needs more than the one image.
        """
        try:
            features, kept = self.backbone(self._fitting(x), maps)
        except (ValueError, RuntimeError) as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise HorkdError(
                f"{self.spec.name} cannot be trained on one image at a time here: its maps of "
                f"{x.shape[-1]} pixels shrink to one, of which BatchNorm has no deviation; take "
                "batches of 2 or more, or `.eval()` to ask without training"
            ) from None
        if self.spec.unit:  # float32 at least, whatever autocast says; zeros stay zero
            features = normalize(features.to(torch.promote_types(features.dtype, torch.float32)))
        if self.classifier is None:
            return Output(features, features.new_empty(len(features), 0), kept)
        # features are pooled, and scaled, in float32 or better
        logits = self.classifier(as_its_weights(self.classifier, features))
        return Output(features, logits, kept)

    def _fitting(self, x: Tensor) -> Tensor:
        is_tensor(x, "images")
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise HorkdError(
                f"networks take normalised images, float (N, 3, H, W), got {x.dtype} "
                f"{tuple(x.shape)}: horkd.preprocess makes them"
            )
        weight = next(self.parameters(), None)  # None in a replica of torch's DataParallel
        if weight is None:
            return x
        same_device(x, "images", weight, "the network's weights")
        return x.to(weight.dtype)


def parameters(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in network.parameters())


def macs(network: Network, resolution: int) -> int:
    """Multiply-accumulates of one image at `resolution` pixels, convolutions and linear layers."""
    reference = next(network.parameters())
    x = torch.zeros(1, 3, resolution, resolution, device=reference.device, dtype=reference.dtype)
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    network.train(training)
    return counter.get_total_flops() // 2


@functools.lru_cache(maxsize=256)
def macs_of(spec: ModelSpec, resolution: int) -> int:
    """`macs` of a network that need not be built."""
    with torch.device("meta"):
        return macs(Network(spec), resolution)


#: Bits of a weight in a file.
BITS = (32, 16, 8)

#: What the scales of an 8-bit tensor are called, after its own name.
_SCALE = ".scale"


def save_network(path: str | Path, network: Network, bits: int = 32, **metadata: object) -> None:
    """Write weights and specification to a safetensors file, atomically.

    With 8 bits the weights of convolutions and linear layers are whole numbers from -127 to 127
    with one scale per output channel, the largest absolute weight over 127; everything else, 1 %
    of the numbers, stays float32.

    Args:
        path: the file.
        network: any `Network`.
        bits: 32, 16 (float16) or 8.
        metadata: more to keep in the header, plain JSON values.

    Raises:
        HorkdError: if there is no such number of bits, or the file cannot be written.
    """
    if bits not in BITS:
        raise HorkdError(f"bits is {bits}: choose from {', '.join(map(str, BITS))}")
    tensors: dict[str, Tensor] = {}
    for name, t in network.state_dict().items():
        if bits == 8 and t.is_floating_point() and t.ndim > 1:
            tensors[name], tensors[name + _SCALE] = _to_8_bits(t)
        elif t.is_floating_point():
            tensors[name] = t.half() if bits == 16 else t.float()
        else:
            tensors[name] = t
    save_tensors(path, tensors, {"spec": asdict(network.spec), **metadata})


def _to_8_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 of the same shape, and float32 scales (O,) of the output channels."""
    rows = weight.detach().float().flatten(1)
    scale = rows.abs().amax(1) / 127
    whole = (rows / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round()
    return whole.clamp(-127, 127).to(torch.int8).view(weight.shape), scale


def in_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file written by `save_network`, by their names in the network."""
    found = {}
    for name, t in tensors.items():
        if t.dtype == torch.int8 and name + _SCALE in tensors:
            scale = tensors[name + _SCALE]
            found[name] = t.float() * scale.view(-1, *[1] * (t.ndim - 1))
        elif not (name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors):
            found[name] = t.float() if t.is_floating_point() else t
    return found


def spec_from_dict(content: dict) -> ModelSpec:
    """A specification as JSON keeps it: lists become tuples."""
    return ModelSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})


def load_network(path: str | Path, spec: ModelSpec | None = None) -> Network:
    """Read a network written by `save_network`, in float32, in eval mode.

    Args:
        path: the file.
        spec: what the file should hold; None takes what it does hold.

    Raises:
        HorkdError: if the file is missing, damaged, or of another architecture.
    """
    tensors, metadata = load_tensors(path)
    try:
        found = spec_from_dict(metadata["spec"])
    except (KeyError, TypeError):
        raise HorkdError(
            f"{path} has no model specification: it was not written by horkd"
        ) from None
    if spec is not None and spec != found:
        of_unit = [" at unit length" if s.unit else "" for s in (found, spec)]
        raise HorkdError(
            f"{path} holds {found.name} with {found.num_classes} classes and embedding "
            f"{found.embedding}{of_unit[0]}, not {spec.name} with {spec.num_classes} and "
            f"{spec.embedding}{of_unit[1]}"
        )
    network = Network(found)
    try:
        network.load_state_dict(in_float32(tensors))
    except RuntimeError as error:
        raise HorkdError(
            f"{path} does not fit {found.name}: {str(error).splitlines()[1].strip()}"
        ) from None
    return network.eval()
