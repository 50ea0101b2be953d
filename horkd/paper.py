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


@dataclass(frozen=True)
class FaceVerification:
    """A row of Table 2: accuracy on LFW in percent; resolution and parameters as printed."""

    model: str
    accuracy: float
    resolution: str
    parameters: str
    year: int | None


TABLE_2 = (
    FaceVerification("DeepFace", 97.35, "152×152", "120 M", 2014),
    FaceVerification("DeepID", 97.45, "39×31", "17 M", 2014),
    FaceVerification("DeepID2", 99.15, "55×47", "10 M", 2014),
    FaceVerification("FaceNet", 99.63, "96×96", "140 M", 2015),
    FaceVerification("VGGFace", 98.95, "224×224", "138 M", 2015),
    FaceVerification("MobileID", 98.37, "55×47", "2 M", 2016),
    FaceVerification("SphereFace", 99.42, "112×96", "37 M", 2017),
    FaceVerification("ShiftFaceNet", 96.00, "224×224", "0.78 M", 2018),
    FaceVerification("CosFace", 99.73, "112×96", "37 M", 2018),
    FaceVerification("VGGFace2 (teacher)", 99.53, "224×224", "26 M", 2018),
    FaceVerification("ArcFace", 99.82, "112×112", "37.8 M", 2019),
    FaceVerification("SKD, 32 px", 89.72, "32×32", "0.79 M", 2019),
    FaceVerification("OUR-32-R", 93.83, "32×32", "7.8 M", None),
    FaceVerification("SKD, 16 px", 85.87, "16×16", "0.79 M", 2019),
    FaceVerification("OUR-16-R", 90.03, "16×16", "7.8 M", None),
)


@dataclass(frozen=True)
class FaceIdentification:
    """A row of Table 3: error on UCCS in percent, 180 subjects, 3,918 + 907 images."""

    model: str
    resolution: int
    top1_error: float
    top5_error: float


TABLE_3 = (
    FaceIdentification("VLRR", 16, 40.97, 22.35),
    FaceIdentification("SKD", 16, 32.75, 18.30),
    FaceIdentification("OUR-16-R", 16, 22.19, 10.23),
)


@dataclass(frozen=True)
class Retrieval:
    """A row of Table 4: Recall@1 in percent on three sets; None where the paper has a dash.

    PKT, DarkRank, both MKD rows and ResNet101 come from a study with a ResNet101 teacher and were
    not run again by the paper's authors.
    """

    model: str
    resolution: int
    cars: float | None
    cub: float | None
    sop: float | None


TABLE_4 = (
    Retrieval("PKT", 256, 46.9, 53.1, None),
    Retrieval("DarkRank", 256, 74.3, 56.2, None),
    Retrieval("MKD", 256, 76.6, 58.0, 68.0),
    Retrieval("MKD+AT", 256, 76.4, 58.1, None),
    Retrieval("OUR-256-R", 256, 82.23, 57.82, 68.13),
    Retrieval("OUR-224-R", 224, 80.03, 57.14, 69.90),
    Retrieval("OUR-160-R", 160, 79.04, 57.19, 68.87),
    Retrieval("OUR-128-R", 128, 77.85, 55.37, 67.66),
    Retrieval("OUR-96-R", 96, 73.41, 53.53, 66.42),
    Retrieval("Student alone (ResNet18)", 256, 46.70, 51.70, 61.70),
    Retrieval("Teacher (ResNet50)", 256, 75.91, 58.96, 72.62),
    Retrieval("ResNet101", 256, 74.80, 58.90, 69.50),
)

#: What stage 1 is worth in Fig. 3, in points of Recall@1, as the text says.
FIG_3_ASSISTANT = 3.03
