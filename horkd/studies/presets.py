"""How large a study is: networks, data, recipe, seeds.

A preset fixes networks, sizes and the recipe; a study (`horkd.studies.study`) turns it into named
configurations, its arms. Nothing else in the code knows about sizes.

| preset | data | networks | meant for |
|---|---|---|---|
| smoke | glyphs, 8 per class | tiny | tests: seconds |
| quick | glyphs, 100 per class | small | `make reproduce`: minutes on two cores |
| cpu | CIFAR-100 | 0.3 to 0.7 M parameters | real images without a GPU: hours, resumable |
| paper-short | CIFAR-100 | ResNet50 → ResNet18 | Table 1: a day of two cores |
| paper | CIFAR-100 | ResNet50 → ResNet18 | the same with RKD's 200 epochs |
| faces | LFW, nine folds | MobileFaceNet → ResNet8 | faces without a GPU: hours, resumable |
| metric | glyphs, disjoint classes | small | all arms of Table 4: 1.3 h on one core |
| metric-cpu | CIFAR-100, disjoint classes | 0.3 to 0.7 M parameters | real images in hours |
| metric-paper | CUB, Cars196, SOP, a folder | ResNet50 → ResNet18 | Table 4, Fig. 3 on a GPU |
| faces-paper | UMDFaces | ResNet50 → ResNet34 × 0.6 | Tables 2 and 3 for those who have the sets |
"""

import warnings
from dataclasses import dataclass, replace

from horkd.data import DATASETS, full_size, is_faces, is_known, is_retrieval
from horkd.data.faces import FOLDS, LARGE, MARGIN, SIZE, parse
from horkd.data.retrieval import MARGIN as PHOTO_MARGIN
from horkd.data.retrieval import of_photos
from horkd.errors import HorkdError
from horkd.machine import Settings, has_bf16
from horkd.networks.network import Statistics
from horkd.training import Recipe

#: Weights of orders 2, 3 and C for reduction "mean": the paper's best subset (Fig. 4). 25 and 50
#: are the numbers usual for RKD in classification; order 2 here is on squares, twice RKD's. They
#: were not calibrated on the paper's networks.
HORKD_ORDERS = (("2", 25.0), ("3", 50.0), ("C", 1.0))
#: For a few epochs. With 25 and 50 the relations make up most of the gradient before the network
#: can tell classes apart; on the embedded set it then never learns to. Chosen on the validation
#: split of the embedded set; how CIFAR-100 came to them is in reports/tuning. The assistant of
#: preset cpu was trained before that choice and keeps the larger weights.
SHORT_ORDERS = (("2", 2.5), ("3", 5.0), ("C", 1.0))


#: Name, weight, weight of the cross-entropy.
_USUAL_ANSWERS = (("kd", 0.9, 0.1), ("kd_standardised", 9.0, 0.1))


@dataclass(frozen=True)
class FaceSizes:
    """Sizes of the study of faces (`horkd.studies.study`), which has a teacher trained by others.

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

    embedding: int | None
    orders: tuple[tuple[str, float], ...]
    main: str
    slim: str
    slim_embedding: int
    lows: tuple[int, ...]
    assistant: int
    tuned: Recipe
    folds: tuple[int, ...] = ()
    clusters: int = 1000
    weights: str = ""
    mean: Statistics | None = None
    std: Statistics | None = None


@dataclass(frozen=True)
class MetricSizes:
    """Sizes of the study of metric learning (`horkd.studies.study`).

    Attributes:
        data: a set with disjoint classes (`horkd.data.retrieval`).
        lows: resolutions of students below the full one, in pixels, the most important first.
        teacher, compact, large: networks; the large one is the paper's ResNet101 row.
        teacher_recipe: optimisation of teacher and large network.
        recipe: of compact networks that learn orders of relations.
        other_recipe: of compact networks that learn anything else.
        embedding: width of all features.
        orders: weights of the losses.
        labels: the loss of all that learns from labels: "triplet" as in the protocol, or a head of
            `RunConfig`, "cosface" or "arcface".
        backbone: what backbones start from, as in `RunConfig`.
        select: which epoch is the result, as in `RunConfig`.
        weights: digest of the weights file of a teacher trained elsewhere, or "".
        teacher_embedding: width of the layer that such a teacher ends in; None for pooled features.
        mean, std: channel statistics that such a teacher expects; None for the data set's.
    """

    data: str
    lows: tuple[int, ...]
    teacher: str
    compact: str
    large: str
    teacher_recipe: Recipe
    recipe: Recipe
    other_recipe: Recipe
    embedding: int
    orders: tuple[tuple[str, float], ...]
    labels: str = "triplet"
    backbone: str | None = None
    select: str = "validation"
    weights: str = ""
    teacher_embedding: int | None = None
    mean: Statistics | None = None
    std: Statistics | None = None


@dataclass(frozen=True)
class Preset:
    """Sizes of a study.

    Attributes:
        name: how the command line calls it.
        data: the data set it is meant for.
        per_class: training images per class, None for all.
        teacher, compact: names of the teacher's and the assistant's and student's network.
        low: the student's resolution, in pixels.
        teacher_recipe, recipe: optimisation of the teacher, and of everything compact.
        seeds: how many seeds of each student; teacher and assistant are trained once.
        validation: keep the validation split out of training. The paper's presets train on all.
        orders: weights of the hybrid-order loss.
        assistant_orders: those of stage 1, if they are others.
        balance: whether these weights are gradients as multiples of the cross-entropy's.
        answers: of "kd" and "kd_standardised" the weight, and that of the cross-entropy beside it;
            by default those of their authors or of the usual comparison.
        second: the other compact network of Table 1 ("V").
        sweep: resolutions below the full one to train students at, in pixels.
        patience: how many times the recipe's epochs patient distillation takes.
        repeat_all: repeat every arm over the seeds, not only the central comparison.
        omit: patterns of the names of arms that are too much for this size.
        faces: sizes of the study of faces, for a preset that has no other study.
        metric: sizes of the study of metric learning; its only study if that has the same data.
        trial: the recipe that trials start from; with progressive resolution it is what they are
            about.
        weight_trial: the recipe of trials of losses and their weights, or None.
        given: (arm, digest) pairs of networks that are distilled from as they lie in the report's
            `models/`, instead of training them here.
        campaign: whether the arms of the paper's central comparison come first, in an order of
            worth of their own (`horkd.studies.study`).
        precision: of all its runs on a CPU: "fp32", or "bf16" where the CPU computes in it; a GPU
            uses bf16 if it has it. It changes results, so that it is no matter of speed alone.
    """

    name: str
    data: str
    teacher: str
    compact: str
    low: int
    teacher_recipe: Recipe
    recipe: Recipe
    seeds: int
    per_class: int | None = None
    validation: bool = True
    orders: tuple[tuple[str, float], ...] = HORKD_ORDERS
    assistant_orders: tuple[tuple[str, float], ...] | None = None
    balance: bool = False
    answers: tuple[tuple[str, float, float], ...] = _USUAL_ANSWERS
    second: str = "vgg11x0.25"
    sweep: tuple[int, ...] = (24, 16, 12, 8, 4)
    patience: int = 4
    repeat_all: bool = False
    omit: tuple[str, ...] = ()
    faces: FaceSizes | None = None
    metric: MetricSizes | None = None
    trial: Recipe | None = None
    weight_trial: Recipe | None = None
    given: tuple[tuple[str, str], ...] = ()
    campaign: bool = False
    precision: str = "fp32"

    def settings(self, settings: Settings) -> Settings:
        """Settings with the precision that this preset is run in, unless the user asks for one."""
        if settings.precision != "auto" or settings.on_cuda or self.precision == "fp32":
            return settings
        if not has_bf16("cpu"):
            warnings.warn(
                f"preset {self.name} is meant for bf16, which this CPU does not compute in: it "
                "trains in fp32, and such runs are not to be compared with those in bf16",
                stacklevel=2,
            )
            return replace(settings, precision="fp32")
        return replace(settings, precision=self.precision)

    @property
    def only_metric(self) -> bool:
        """Whether metric learning is all that this preset is about."""
        return self.metric is not None and self.metric.data == self.data


_RKD = Recipe(
    epochs=200,
    batch_size=128,
    learning_rate=0.1,
    schedule="step",
    milestones=(60, 120, 160),
    decay=0.2,
)
#: By the trials of study "recipe" (reports/paper-short-cifar100/trials). Four views: the frozen
#: model looks at each image four times in all.
_SHORT = Recipe(epochs=30, batch_size=128, learning_rate=0.2, views=4)
#: 8 epochs at 16 px, 6 at 24 and 6 at 32.
_SHORT_TEACHER = replace(_SHORT, epochs=20, views=0, progressive=((8, 16), (6, 24)))
#: What the trials for `paper-short` change one value of. It stays as it was when they were run.
_TRIAL = Recipe(epochs=5, batch_size=128, learning_rate=0.2)
#: The recipe that came out, in five epochs.
_WEIGHT_TRIAL = replace(_SHORT, epochs=5)
#: What is progressive resolution worth? Asked once, of a small network at full resolution.
_PROGRESSIVE = replace(_TRIAL, epochs=6, progressive=((2, 16), (2, 24)))
_CPU_TEACHER = Recipe(epochs=8, batch_size=128, learning_rate=0.2)
_CPU = Recipe(epochs=5, batch_size=128, learning_rate=0.2)
_QUICK_TEACHER = Recipe(epochs=8, batch_size=100, learning_rate=0.2, crop=2)
_QUICK = Recipe(epochs=6, batch_size=100, learning_rate=0.2, crop=2)
_SMOKE = Recipe(epochs=2, batch_size=50, learning_rate=0.1, crop=2)

#: Crops of ±4 of 112 pixels; four views, so that the teacher looks at each photo four times in all.
_FACES = Recipe(epochs=16, batch_size=64, learning_rate=0.3, crop=4, views=4)
_TUNED = Recipe(epochs=1, batch_size=32, learning_rate=0.005, crop=4, views=4)
_FACES_PAPER = Recipe(epochs=30, batch_size=256, learning_rate=0.2, crop=8)
_TUNED_PAPER = Recipe(epochs=2, batch_size=64, learning_rate=0.005, crop=8)
#: Weights between features at unit length, chosen on View 1 of LFW (reports/tuning).
FACE_ORDERS = (("1", 1000.0), ("2", 25.0), ("3", 50.0), ("C", 5000.0))
_LFW = FaceSizes(
    embedding=128, orders=FACE_ORDERS, main="123", slim="resnet34x0.6", slim_embedding=512,
    lows=(16, 32), assistant=64, tuned=_TUNED, folds=tuple(range(1, 11)),
    weights="631c2db53a7de2d9",
)  # fmt: skip
_UMD = FaceSizes(
    embedding=512, orders=FACE_ORDERS, main="123", slim="resnet34x0.6", slim_embedding=512,
    lows=(16, 32), assistant=224, tuned=_TUNED_PAPER,
)  # fmt: skip

#: Weights for metric learning.
METRIC_ORDERS = (("1", 100.0), ("2", 25.0), ("3", 50.0), ("C", 1.0))
#: Networks from scratch, which the paper's are not: orders of relations are learnt by SGD, all else
#: by Adam, to which the scale of a loss is nothing. Rates were chosen on the embedded set's
#: validation classes (reports/tuning). Twice the batch at half the steps was far behind.
_METRIC = Recipe(
    epochs=6, batch_size=60, learning_rate=0.1, weight_decay=1e-5, crop=2, per_class=5, batches=120
)
_METRIC_ADAM = replace(_METRIC, optimizer="adam", learning_rate=0.004)
_METRIC_TEACHER = replace(_METRIC_ADAM, epochs=8)
#: For minutes: half the images, and two views of each, so that seeds share the frozen answers.
#: Without a limit on the gradient order C diverges from a teacher that has learnt as little.
_METRIC_QUICK = replace(_METRIC, epochs=4, batches=100, views=2, clip=1.0)
_METRIC_QUICK_ADAM = replace(_METRIC_QUICK, optimizer="adam", learning_rate=0.004, clip=None)
_METRIC_SMOKE = replace(_METRIC, epochs=2, batch_size=40, batches=4, learning_rate=0.02)
_METRIC_SMOKE_ADAM = replace(_METRIC_SMOKE, optimizer="adam", learning_rate=0.004)
#: The limit on the gradient is for order C: without it a loss can blow up in the first steps.
_METRIC_CPU = replace(_METRIC, epochs=3, batch_size=64, crop=4, batches=400, views=2, clip=1.0)
_METRIC_CPU_ADAM = replace(_METRIC_CPU, optimizer="adam", learning_rate=0.004, clip=None)
_METRIC_CPU_TEACHER = replace(_METRIC_CPU_ADAM, epochs=5, batches=500, views=0)
#: The code published with RKD: 224 of 256 pixels at random, 100 batches of 128 an epoch.
_METRIC_TEACHER_PAPER = Recipe(
    epochs=40, batch_size=128, learning_rate=1e-5, schedule="step", milestones=(25, 30, 35),
    decay=0.5, weight_decay=1e-5, crop=18, optimizer="adam", per_class=5, batches=100,
)  # fmt: skip
_METRIC_PAPER = replace(
    _METRIC_TEACHER_PAPER, epochs=80, learning_rate=1e-4, milestones=(40, 60), decay=0.1
)
_GLYPHS_SIZES = MetricSizes(
    "glyphs-disjoint", (16, 24, 12, 8), "resnet14", "resnet8", "resnet20", _METRIC_TEACHER, _METRIC,
    _METRIC_ADAM, 128, METRIC_ORDERS,
)  # fmt: skip
_GLYPHS_SMOKE = replace(
    _GLYPHS_SIZES, lows=(16, 8), teacher="resnet14x0.5", compact="resnet8x0.5",
    large="resnet20x0.5", teacher_recipe=_METRIC_SMOKE_ADAM, recipe=_METRIC_SMOKE,
    other_recipe=_METRIC_SMOKE_ADAM, embedding=32,
)  # fmt: skip
_GLYPHS_QUICK = replace(
    _GLYPHS_SIZES, lows=(16, 8), recipe=_METRIC_QUICK, other_recipe=_METRIC_QUICK_ADAM,
    teacher_recipe=replace(_METRIC_ADAM, epochs=5),
)  # fmt: skip
#: From scratch and in few epochs triplets teach little on these images (reports/tuning).
_CIFAR_SIZES = MetricSizes(
    "cifar100-disjoint", (16, 24, 12, 8), "resnet14x2", "resnet8x2", "resnet20x2",
    _METRIC_CPU_TEACHER, _METRIC_CPU, _METRIC_CPU_ADAM, 128, METRIC_ORDERS, labels="cosface",
)  # fmt: skip
_CUB_SIZES = MetricSizes(
    "cub", (96, 224, 160, 128), "torchvision:resnet50", "torchvision:resnet18",
    "torchvision:resnet101", _METRIC_TEACHER_PAPER, _METRIC_PAPER, _METRIC_PAPER, 512,
    METRIC_ORDERS,
    backbone="imagenet",
)  # fmt: skip
#: The rest of Table 4 is for preset metric.
_METRIC_TOO_LONG = (
    *(f"metric {name} *" for name in ("RKD", "PKT", "DarkRank", "MKD", "MKD absolute", "MKD+AT")),
    *("metric student 8*", "metric student 32*", "metric large"),
)

#: Too much for minutes on two cores: full resolution, the second network, long schedules, our
#: extensions, and what differs from an arm that stays by a detail.
_TOO_LONG = (
    *("* 32", "* V", "* V alone", "KD patient", "student direct, equal epochs", "order *"),
    *("student + *", "student, balanced", "student, warm-up", "horkd+", "RKD distances"),
    *("RKD angles", "student, paper's weights, clipped", "student from the assistant's weights"),
    *("student alone, equal epochs", "student alone, patient", "KD from the assistant", "AT"),
    # all subsets of {2,3,C} stay, and order 1 alone and on top of them
    *("{1,?} *", "{1,?,?} *"),
    *("student 24 direct", "student 4 direct", "student area"),
    *("assistant fine-tuned *", "horkd+ *"),
)

PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke", "glyphs", "resnet14x0.5", "resnet8x0.5", 16, _SMOKE, _SMOKE, 1, per_class=8,
            orders=SHORT_ORDERS, second="vgg11x0.05", sweep=(16, 8), patience=2,
            metric=_GLYPHS_SMOKE,
        ),
        Preset(
            "quick", "glyphs", "resnet14", "resnet8", 16, _QUICK_TEACHER, _QUICK, 3,
            orders=SHORT_ORDERS, second="vgg11x0.125", patience=2,
            omit=(*_TOO_LONG, *_METRIC_TOO_LONG), metric=_GLYPHS_QUICK,
        ),
        Preset(
            "cpu", "cifar100", "resnet14x2", "resnet8x2", 16, _CPU_TEACHER, _CPU, 3,
            orders=SHORT_ORDERS, assistant_orders=HORKD_ORDERS, trial=_PROGRESSIVE,
        ),
        Preset(
            "faces", "lfw", "mobilefacenet", "resnet8x2", 16, _FACES, _FACES, 3,
            validation=False, faces=_LFW,
        ),
        Preset(
            "faces-paper", "umdfaces@224", "torchvision:resnet50", "resnet34x0.6", 16,
            _FACES_PAPER, _FACES_PAPER, 1, validation=False, faces=_UMD,
            # each run reads hundreds of thousands of photos; the compact network is the slim one
            omit=("{*}*", "* slim", "tuned *", "*scratch teacher", "*small teacher"),
        ),
        Preset(
            "metric", "glyphs-disjoint", "resnet14", "resnet8", 16, _METRIC_TEACHER, _METRIC, 3,
            repeat_all=True, metric=_GLYPHS_SIZES,
        ),
        Preset(
            "metric-cpu", "cifar100-disjoint", "resnet14x2", "resnet8x2", 16, _METRIC_CPU_TEACHER,
            _METRIC_CPU, 3, metric=_CIFAR_SIZES,
        ),
        Preset(
            "metric-paper", "cub", "torchvision:resnet50", "torchvision:resnet18", 96,
            _METRIC_TEACHER_PAPER, _METRIC_PAPER, 1, metric=_CUB_SIZES,
        ),
        Preset(
            "paper-short", "cifar100", "resnet50", "resnet18", 16, _SHORT_TEACHER, _SHORT, 3,
            validation=False, second="vgg11", trial=_TRIAL, weight_trial=_WEIGHT_TRIAL,
            campaign=True, precision="bf16",
        ),
        Preset(
            "paper", "cifar100", "resnet50", "resnet18", 16, _RKD, _RKD, 3, validation=False,
            second="vgg11", patience=3, repeat_all=True,
        ),
    )
}  # fmt: skip


def _with_faces(preset: Preset, data: str) -> Preset:
    """A preset of faces with another training set, at the preset's size unless the name has one."""
    base, size = parse(data)
    if "@" not in data:
        size = parse(preset.data)[1]
    if base not in ("lfw", *LARGE):
        raise HorkdError(
            f"preset {preset.name} does not train on {base}: choose from lfw (its folds in turn), "
            f"{', '.join(LARGE)}"
        )
    sizes, recipe = preset.faces, preset.recipe
    # LFW is trained on in folds and fits into memory; large sets are read from disk
    folds = tuple(range(1, FOLDS + 1)) if base == "lfw" else ()
    sizes = replace(
        sizes,
        folds=sizes.folds if folds and sizes.folds else folds,
        assistant=min(sizes.assistant, size),
    )
    crop = round(MARGIN * size)
    recipe, sizes = (
        replace(recipe, crop=crop),
        replace(sizes, tuned=replace(sizes.tuned, crop=crop)),
    )
    if base in LARGE:
        recipe = replace(recipe, views=0)
        sizes = replace(sizes, tuned=replace(sizes.tuned, views=0))
    usual = size == SIZE == parse(preset.data)[1]
    data = base if usual else f"{base}@{size}"
    return replace(preset, data=data, faces=sizes, recipe=recipe)


def _with_metric(preset: Preset, data: str) -> Preset:
    """A preset of metric learning with another set: photos with photos, small images with theirs.

    Resolutions of students are the same shares of the full one.
    """
    full, new = full_size(preset.data), full_size(data)
    photos = of_photos(data)
    if photos != (preset.metric.backbone is not None):
        other = "metric-paper" if photos else "metric or metric-cpu"
        raise HorkdError(f"preset {preset.name} is not made for {data}: take {other}")
    sizes = replace(
        preset.metric,
        data=data,
        lows=tuple(round(r * new / full) for r in preset.metric.lows),
        **(
            {
                name: replace(getattr(preset.metric, name), crop=round(PHOTO_MARGIN * new))
                for name in ("teacher_recipe", "recipe", "other_recipe")
            }
            if photos
            else {}
        ),
    )
    return replace(preset, data=data, low=sizes.lows[0], metric=sizes)


def get_preset(
    name: str, data: str | None = None, seeds: int | None = None, select: str = ""
) -> Preset:
    """A preset by name.

    Args:
        name: one of `PRESETS`.
        data: another data set than the preset's own; None or "" keeps it.
        seeds: another number of seeds; None or 0 keeps it.
        select: of metric learning, another choice of the epoch that is the result: "validation",
            "last", or "test" as published code has it; "" keeps it.

    Raises:
        HorkdError: if the preset or the data set is unknown, or the number of seeds negative.
    """
    if name not in PRESETS:
        raise HorkdError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if data and not is_known(data):
        raise HorkdError(
            f"unknown data set {data!r}: choose from {', '.join(DATASETS)}, folder:PATH"
        )
    if data and is_retrieval(data) != preset.only_metric:
        raise HorkdError(
            f"preset {name} is not made for {data}: sets with disjoint classes go with "
            f"{', '.join(p.name for p in PRESETS.values() if p.only_metric)}, others with the rest"
        )
    if data and is_faces(data) != (preset.faces is not None):
        raise HorkdError(
            f"preset {name} is not made for {data}: sets of faces go with "
            f"{', '.join(p.name for p in PRESETS.values() if p.faces)}, others with the rest"
        )
    if preset.only_metric:
        preset = _with_metric(preset, data or preset.data)
    elif preset.faces:
        preset = _with_faces(preset, data or preset.data)
    elif data and data != preset.data:
        # a size chosen for the preset's own data says nothing about another set
        per_class = preset.per_class if name == "smoke" else None
        preset = replace(preset, data=data, per_class=per_class, metric=None)
    if select:
        if preset.metric is None:
            raise HorkdError(f"preset {name} has no study of metric learning to select for")
        preset = replace(preset, metric=replace(preset.metric, select=select))
    if seeds is not None and seeds < 0:
        raise HorkdError(f"the number of seeds must be 1 or more, got {seeds}")
    return replace(preset, seeds=seeds) if seeds else preset
