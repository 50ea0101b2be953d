"""The architectures of this project, for small images and faces."""

from torch import Tensor, nn

from horkd.checks import exact
from horkd.errors import HorkdError

#: Kind of block, and how many in each stage.
_RESNETS = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    **{f"resnet{6 * n + 2}": ("basic", (n, n, n)) for n in (1, 2, 3, 5)},
}

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))

#: Inverted residuals of MobileFaceNet: expansion, width, repeats, stride of the first.
_MOBILEFACENET = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

ARCHITECTURES = (*_RESNETS, "vgg11", "mobilefacenet")


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
        width: of the features.
    """

    def __init__(
        self, layers: list[nn.Module], ends: dict[int, int], head: list[nn.Module], width: int
    ) -> None:
        super().__init__(nn.Sequential(*layers), *head)
        self.width = width
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
    from torchvision.models.resnet import BasicBlock, Bottleneck  # slow to import

    kind, depths = _RESNETS[architecture]
    block = {"basic": BasicBlock, "bottleneck": Bottleneck}[kind]
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
    """Mean over the map, in float32 or better: bf16 features blur their relations."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(exact(x, "maps"))


class _Embedding(nn.Linear):
    """The linear layer after the pooling, in the precision of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


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


def build(architecture: str, width: float, embedding: int | None) -> nn.Module:
    """The backbone of one of `ARCHITECTURES`: images to features, and maps if wanted.

    Args:
        architecture: one of `ARCHITECTURES`.
        width: multiplier of its channels.
        embedding: width of a linear layer after the pooling, or None. MobileFaceNet ends in such a
            layer anyway, 128 wide by default.

    Returns:
        A module with `width`, that of its features, and `channels`, those of its maps.
    """
    if architecture == "mobilefacenet":
        return _MobileFaceNet(width, embedding or 128)
    layers, ends, outputs = (
        _vgg11(width) if architecture == "vgg11" else _resnet(architecture, width)
    )
    head: list[nn.Module] = [_GlobalAverage(), nn.Flatten()]
    if embedding is not None:
        head.append(_Embedding(outputs, embedding))
    return _Backbone(layers, ends, head, embedding or outputs)
