"""Sizes of the study of faces.

| preset | data | networks | meant for |
|---|---|---|---|
| faces | LFW, nine folds | MobileFaceNet → ResNet8 | faces without a GPU: hours, resumable |
| faces-paper | UMDFaces | ResNet50 → ResNet34 × 0.6 | Tables 2 and 3 for those who have the sets |
"""

from dataclasses import dataclass
from typing import ClassVar

from horkd.networks.network import Statistics
from horkd.studies.preset import Preset, Weights
from horkd.training import Recipe

#: Weights between features at unit length, chosen on View 1 of LFW (reports/tuning).
FACE_ORDERS: Weights = (("1", 1000.0), ("2", 25.0), ("3", 50.0), ("C", 5000.0))


@dataclass(frozen=True, kw_only=True)
class FacesPreset(Preset):
    """Sizes of the study of faces, which has a teacher trained by others.

    Attributes:
        embedding: width of the features of compact networks.
        orders: weights of the losses between unit-length features; those of `main` are used
            together, the others alone and in the ablation.
        main: the subset of orders that students are distilled with.
        slim, slim_embedding: the paper's student for faces.
        lows: resolutions of students, in pixels, the most important first.
        assistant: resolution of the assistant, in pixels.
        tuned: recipe of students that start from the teacher's weights.
        folds: the folds of LFW that are held out in turn, all arms and seeds on the first; empty
            for a training set of its own, tested on all of LFW.
        clusters: clusters that stand for people where order C has no labels.
        weights: digest of the teacher's weights file (`horkd.networks.weights.digest`).
        mean, std: channel statistics that the teacher expects; None for ImageNet's.
    """

    task: ClassVar[str] = "faces"

    embedding: int | None
    orders: Weights = FACE_ORDERS
    main: str = "123"
    slim: str = "resnet34x0.6"
    slim_embedding: int = 512
    lows: tuple[int, ...]
    assistant: int
    tuned: Recipe
    folds: tuple[int, ...] = ()
    clusters: int = 1000
    weights: str = ""
    mean: Statistics | None = None
    std: Statistics | None = None


PRESETS = (
    FacesPreset(
        name="faces",
        data="lfw",
        folds=tuple(range(1, 11)),
        teacher="mobilefacenet",
        weights="631c2db53a7de2d9",
        compact="resnet8x2",
        embedding=128,
        lows=(16, 32),
        assistant=64,
        # crops of ±4 of 112 pixels; four views, so that the teacher looks at each photo four times
        recipe=Recipe(epochs=16, batch_size=64, learning_rate=0.3, crop=4, views=4),
        tuned=Recipe(epochs=1, batch_size=32, learning_rate=0.005, crop=4, views=4),
        seeds=3,
    ),
    FacesPreset(
        name="faces-paper",
        data="umdfaces@224",
        teacher="torchvision:resnet50",
        compact="resnet34x0.6",
        embedding=512,
        lows=(16, 32),
        assistant=224,
        recipe=Recipe(epochs=30, batch_size=256, learning_rate=0.2, crop=8),
        tuned=Recipe(epochs=2, batch_size=64, learning_rate=0.005, crop=8),
        seeds=1,
        # each run reads hundreds of thousands of photos; the compact network is the slim one
        omit=("{*}*", "* slim", "tuned *", "*scratch teacher", "*small teacher"),
    ),
)
