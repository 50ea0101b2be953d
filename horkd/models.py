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
weights (`horkd.pretrained`). Their ResNets show the maps of their four stages, the others none.
The 3×3 stem of stride 1 replaces ImageNet's 7×7 of stride 2, which loses about ten points at 32 px.
"""

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from horkd.errors import HorkdError
from horkd.storage import load_tensors, save_tensors

_RESNETS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    **{f"resnet{6 * n + 2}": (BasicBlock, (n, n, n)) for n in (1, 2, 3, 5)},
}
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
#: Inverted residuals of MobileFaceNet: expansion, width, repeats, stride of the first.
_MOBILEFACENET = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
ARCHITECTURES = (*_RESNETS, "vgg11", "mobilefacenet")
LIBRARIES = ("torchvision", "timm")
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


def _conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


class _Backbone(nn.Sequential):
    """Layers and head in one module: it can be compiled on its own.

    Args:
        layers: the convolutional part.
        ends: index of the last layer of each stage -> channels of its map.
        head: pooling and, if any, the embedding.
    """

    def __init__(
        self, layers: list[nn.Module], ends: dict[int, int], head: list[nn.Module]
    ) -> None:
        super().__init__(nn.Sequential(*layers), *head)
        self.ends = frozenset(ends)
        self.channels = tuple(ends.values())

    def forward(self, x: Tensor, maps: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features and, if wanted, the map at the end of each stage."""
        kept = []
        for index, layer in enumerate(self[0]):
            x = layer(x)
            if maps and index in self.ends:
                kept.append(x)
        for index in range(1, len(self)):
            x = self[index](x)
        return x, tuple(kept)


def _resnet(architecture: str, width: float) -> tuple[list[nn.Module], dict[int, int], int]:
    """Layers, the index of the last one of each stage with its channels, and those of the last."""
    block, depths = _RESNETS[architecture]
    base = 64 if len(depths) == 4 else 16
    widths = [max(1, round(base * 2**stage * width)) for stage in range(len(depths))]
    layers: list[nn.Module] = _conv_bn_relu(3, widths[0])
    inputs, ends = widths[0], {}
    for stage, (depth, planes) in enumerate(zip(depths, widths, strict=True)):
        for index in range(depth):
            stride = 2 if stage and index == 0 else 1
            outputs = planes * block.expansion
            shortcut = None
            if stride != 1 or inputs != outputs:
                shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
            layers.append(block(inputs, planes, stride, shortcut))
            inputs = outputs
        ends[len(layers) - 1] = inputs
    return layers, ends, inputs


class _GlobalAverage(nn.AdaptiveAvgPool2d):
    """Mean over the map, in float32 whatever autocast says: bf16 features blur their relations."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


class _PoolIfItFits(nn.MaxPool2d):
    """2×2 max-pool; the identity on a map of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if min(x.shape[-2:]) > 1 else x


def _vgg11(width: float) -> tuple[list[nn.Module], dict[int, int], int]:
    layers: list[nn.Module] = []
    inputs, ends = 3, {}
    for group in _VGG11:
        for planes in group:
            outputs = max(1, round(planes * width))
            layers += _conv_bn_relu(inputs, outputs)
            inputs = outputs
        ends[len(layers) - 1] = inputs  # before the pool
        layers.append(_PoolIfItFits(2))
    return layers, ends, inputs


def _conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU6,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm and, if any, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([activation(inplace=True)] if activation else []))


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.conv = nn.Sequential(
            _conv_bn(inputs, wide),
            _conv_bn(wide, wide, 3, stride, groups=wide),
            *_conv_bn(wide, outputs, activation=None),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class _DepthwiseSeparable(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.depthwise(x)).relu_()
        return self.bn2(self.pointwise(x)).relu_()


class _GlobalDepthwise(nn.Module):
    """A 7×7 filter per channel over the whole last map, instead of its mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (7, 7):
            raise HorkdError(
                f"mobilefacenet takes images of 112 pixels, and these end in a map of "
                f"{x.shape[-2]}×{x.shape[-1]}: take a data set of 112 pixels (NAME@112), and "
                "enlarge reduced images (Degradation(…, upsample=True))"
            )
        return self.bn(self.depthwise(x))


class _MobileFaceNet(nn.Module):
    """MobileFaceNet (Chen et al. 2018, arXiv 1804.07573); module names as in published weights.

    Args:
        width: multiplier of all channels but the embedding's.
        embedding: width of the features.
    """

    def __init__(self, width: float, embedding: int) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        self.conv1 = _conv_bn(3, scaled(64), 3, 2)
        self.dw_conv = _DepthwiseSeparable(scaled(64))
        blocks: list[nn.Module] = []
        inputs, ends = scaled(64), {}
        for expansion, channels, repeats, stride in _MOBILEFACENET:
            if stride == 2 and blocks:
                ends[len(blocks) - 1] = inputs  # a stage ends where the map gets smaller
            for index in range(repeats):
                outputs = scaled(channels)
                blocks.append(
                    _InvertedResidual(inputs, outputs, expansion, stride if index == 0 else 1)
                )
                inputs = outputs
        ends[len(blocks) - 1] = inputs
        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv_bn(inputs, scaled(512))
        self.gdconv = _GlobalDepthwise(scaled(512))
        self.conv3 = nn.Conv2d(scaled(512), embedding, 1)
        self.bn = nn.BatchNorm1d(embedding)
        self.ends = frozenset(ends)
        self.channels = tuple(ends.values())
        self.width = embedding

    def forward(self, x: Tensor, maps: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features and, if wanted, the map at the end of each stage."""
        kept = []
        x = self.dw_conv(self.conv1(x))
        for index, block in enumerate(self.features):
            x = block(x)
            if maps and index in self.ends:
                kept.append(x)
        x = self.conv3(self.gdconv(self.conv2(x))).flatten(1)
        return self.bn(x), tuple(kept)


class _Library(nn.Module):
    """A network of torchvision or timm without its last linear layer.

    Args:
        name: `torchvision:resnet50`, `timm:resnet50`.
        embedding: width of a linear layer after it, or None.

    Attributes:
        trunk: the library's network; its tensors keep their names.
        channels: K of the maps after layer1 to layer4 of a ResNet; empty for other networks.
    """

    def __init__(self, name: str, embedding: int | None) -> None:
        super().__init__()
        refuse_unknown(name)
        library, _, architecture = name.partition(":")
        build = _torchvision if library == "torchvision" else _timm
        self.trunk, outputs = build(architecture)
        self.embedding = nn.Identity() if embedding is None else nn.Linear(outputs, embedding)
        self.width = outputs if embedding is None else embedding
        self.channels = _stage_channels(self.trunk)

    def forward(self, x: Tensor, maps: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features and, if wanted, the map at the end of each stage of a ResNet."""
        kept: tuple[Tensor, ...] = ()
        if maps and self.channels:
            x, kept = self._stages(x)
        else:
            x = self.trunk(x)
        return self.embedding(x.flatten(1)), kept

    def _stages(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What `trunk(x)` computes, step by step: no hooks that outlive a call or break a graph."""
        net = self.trunk
        theirs = isinstance(net, ResNet)  # torchvision's; timm names the steps otherwise
        x = net.maxpool((net.relu if theirs else net.act1)(net.bn1(net.conv1(x))))
        kept = []
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            kept.append(x)
        return net.fc(net.avgpool(x).flatten(1)) if theirs else net.forward_head(x), tuple(kept)


def refuse_unknown(name: str) -> None:
    """Let a name pass if it is a network of an installed library.

    Raises:
        HorkdError: if the library has no such network, or is not installed.
    """
    library, _, architecture = name.partition(":")
    if library == "torchvision":
        if architecture not in torchvision.models.list_models(module=torchvision.models):
            raise HorkdError(
                f"torchvision has no classification network {architecture!r}: "
                "torchvision.models.list_models(module=torchvision.models) names them"
            )
        return
    try:
        import timm
    except ImportError:
        raise HorkdError(
            "networks of timm need that package: pip install 'horkd[metric]'"
        ) from None
    if not timm.is_model(architecture):
        raise HorkdError(f"timm has no network {architecture!r}: timm.list_models() names them")


def _stage_channels(network: nn.Module) -> tuple[int, ...]:
    """Channels after each stage of a library's ResNet; empty for any other network."""
    if isinstance(network, ResNet):
        stages = (network.layer1, network.layer2, network.layer3, network.layer4)
        # a block ends in its last convolution, or in the shortcut's, which is as wide
        convolutions = [[m for m in s.modules() if isinstance(m, nn.Conv2d)] for s in stages]
        return tuple(found[-1].out_channels for found in convolutions)
    timm_resnet = sys.modules.get("timm.models.resnet")  # loaded if the network is one of its
    if timm_resnet is not None and isinstance(network, timm_resnet.ResNet):
        info = {stage["module"]: stage["num_chs"] for stage in network.feature_info}
        return tuple(info[f"layer{number}"] for number in (1, 2, 3, 4))
    return ()


def _torchvision(architecture: str) -> tuple[nn.Module, int]:
    """The network and the width of what its last linear layer was fed."""
    network = torchvision.models.get_model(architecture, weights=None)
    last = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not last:
        raise HorkdError(f"torchvision:{architecture} does not end in a linear layer: use timm's")
    width = network.get_submodule(last[-1]).in_features
    network.set_submodule(last[-1], nn.Identity())
    return network, width


def _timm(architecture: str) -> tuple[nn.Module, int]:
    import timm

    network = timm.create_model(architecture, pretrained=False, num_classes=0)
    # many networks have one more layer between their last map and their features
    return network, getattr(network, "head_hidden_size", None) or network.num_features


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
        self.backbone, self.width = _backbone(spec)
        self.channels = self.backbone.channels
        self.classifier = nn.Linear(self.width, spec.num_classes) if spec.num_classes else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, maps: bool = False) -> Output:
        """Features (N, D), logits (N, C) and, if wanted, maps of normalised images (N, 3, H, W)."""
        features, kept = self.backbone(x, maps)
        if self.spec.unit:  # float32 at least, whatever autocast says; zeros stay zero
            features = normalize(features.to(torch.promote_types(features.dtype, torch.float32)))
        if self.classifier is None:
            return Output(features, features.new_empty(len(features), 0), kept)
        return Output(features, self.classifier(features), kept)


def _backbone(spec: ModelSpec) -> tuple[nn.Module, int]:
    """What turns images into features, and how wide they are."""
    architecture, width = spec.parse()
    if architecture == "mobilefacenet":
        backbone = _MobileFaceNet(width, spec.embedding or 128)
        return backbone, backbone.width
    if ":" in architecture:
        backbone = _Library(architecture, spec.embedding)
        return backbone, backbone.width
    layers, ends, outputs = (
        _vgg11(width) if architecture == "vgg11" else _resnet(architecture, width)
    )
    head: list[nn.Module] = [_GlobalAverage(), nn.Flatten()]
    if spec.embedding is not None:
        head.append(nn.Linear(outputs, spec.embedding))
    return _Backbone(layers, ends, head), outputs if spec.embedding is None else spec.embedding


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


def save_network(path: Path, network: Network, bits: int = 32, **metadata: object) -> None:
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
        else:
            tensors[name] = t.half() if bits == 16 and t.is_floating_point() else t
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


def load_network(path: Path, spec: ModelSpec | None = None) -> Network:
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
