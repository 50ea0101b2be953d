"""Networks of torchvision and timm without their last linear layer."""

import sys

from torch import Tensor, nn

from horkd.errors import HorkdError

LIBRARIES = ("torchvision", "timm")


class Library(nn.Module):
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
        theirs = _is_torchvisions(net)  # timm names the steps otherwise
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
        from torchvision import models  # slow to import, as below

        if architecture not in models.list_models(module=models):
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


def _is_torchvisions(network: nn.Module) -> bool:
    """Whether it is a ResNet of torchvision."""
    from torchvision.models import ResNet

    return isinstance(network, ResNet)


def _stage_channels(network: nn.Module) -> tuple[int, ...]:
    """Channels after each stage of a library's ResNet; empty for any other network."""
    if _is_torchvisions(network):
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
    from torchvision import models

    network = models.get_model(architecture, weights=None)
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
