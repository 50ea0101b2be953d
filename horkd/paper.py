"""The published numbers, as data: *Look One and More* (AAAI 2020, arXiv 2409.05384).

Never mixed with ours: a report shows them in a column of their own, with the networks they are of.
"""

from dataclasses import dataclass

TITLE = (
    "Look One and More: Distilling Hybrid Order Relational Knowledge for Cross-Resolution Image "
    "Recognition (AAAI 2020, arXiv 2409.05384)"
)


@dataclass(frozen=True)
class Classification:
    """A row of Table 1: CIFAR-100 top-1 accuracy in percent, and the network it was measured on.

    The rows of FitNet, AT, RKD and KD equal RKD's own table, whose student is a VGG11.
    """

    model: str
    resolution: int
    top1: float
    network: str


TABLE_1 = (
    Classification("Teacher ResNet50", 32, 77.76, "resnet50"),
    Classification("FitNet", 32, 70.08, "vgg11"),
    Classification("Attention (AT)", 32, 72.68, "vgg11"),
    Classification("RKD", 32, 72.97, "vgg11"),
    Classification("KD", 32, 74.26, "vgg11"),
    Classification("OUR-32-V", 32, 73.54, "vgg11"),
    Classification("OUR-16-V", 16, 69.87, "vgg11"),
    Classification("OUR-32-R", 32, 76.68, "resnet18"),
    Classification("OUR-16-R", 16, 74.65, "resnet18"),
)


def row(model: str | None) -> float | None:
    """Top-1 (%) of a row of Table 1 by its name, or None where the paper has no such row."""
    return next((row.top1 for row in TABLE_1 if row.model == model), None)


def network(model: str | None) -> str | None:
    """The network that a row of Table 1 was measured on."""
    return next((row.network for row in TABLE_1 if row.model == model), None)
