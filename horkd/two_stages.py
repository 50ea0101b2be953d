"""The method of *Look One and More* in one page: teacher → assistant → student.

    teacher     large, sees sharp images; trained already and frozen
       │
       │  stage 1, cross-structure:   f = teacher(x),    g = assistant(x)
       ▼
    assistant   compact, sees sharp images; frozen when it is trained
       │
       │  stage 2, cross-resolution:  f = assistant(x),  g = student(x̂)
       ▼
    student     compact, sees small images; this one is deployed

Both stages are the same function, `distil`: cross-entropy on the labels plus the hybrid-order loss
L = L_1 + α L_2 + β L_3 + γ L_C (Eq. 8) between the features f of a frozen model and the features g
of a learner, of the same crops. Only what the learner sees of them differs.

All parts are those of the studies (`horkd.lab.runner`), which add what an experiment needs: a key,
a record, validation, an end of the run that is an interruption.
"""

from collections.abc import Mapping

from torch import nn

from horkd.data.images import ImageSet
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.losses import HybridOrderLoss, class_centers
from horkd.machine import Settings, seeded
from horkd.networks.network import Network
from horkd.objectives import Frozen, Objective, require_tuples
from horkd.predict import predict
from horkd.preprocess import Channels
from horkd.training import Recipe, train

#: α, β, γ of Eq. 8 without L_1, the paper's best subset, for means over tuples.
WEIGHTS = {"2": 25.0, "3": 50.0, "C": 1.0}


def transfer(
    teacher: Network,
    assistant: Network,
    student: Network,
    images: ImageSet,
    low: int,
    channels: Channels | None = None,
    weights: Mapping[str, float] = WEIGHTS,
    recipe: Recipe | None = None,
    flip: bool = True,
    seed: int = 0,
    settings: Settings | None = None,
) -> tuple[list[dict], list[dict]]:
    """Train an assistant by the teacher, and a student of low resolution by the assistant.

    Example:
        >>> from horkd import ModelSpec, Network, load_dataset
        >>> teacher, assistant, student = (Network(ModelSpec("resnet8", 100)) for _ in range(3))
        >>> images = load_dataset("glyphs", per_class=4).train  # or an ImageSet of your own
        >>> quick = Recipe(epochs=1, batch_size=50)
        >>> first, second = transfer(teacher, assistant, student, images, low=16, recipe=quick)
        >>> sorted(second[-1]["terms"])
        ['cross_entropy', 'loss', 'order2', 'order3', 'order_c']

    Args:
        teacher: trained; its weights stay as they are.
        assistant: of the student's structure; trained in place.
        student: trained in place.
        images: labelled, at full resolution.
        low: the student's resolution, in pixels.
        channels: statistics that normalise the images, such as a data set's; None for those of the
            images.
        weights: order ("1", "2", "3", "C") to weight (`HybridOrderLoss`).
        recipe: optimisation of each stage.
        flip: whether a mirrored image still belongs to its class.
        seed: of the order of images, crops and mirroring.
        settings: how the machine does it.

    Returns:
        Of both stages, what each epoch minimised: its terms and their shares of the gradient.

    Raises:
        HorkdError: as `distil`.
    """
    same = {
        "channels": channels or statistics(images),
        "weights": weights,
        "recipe": recipe,
        "flip": flip,
        "seed": seed,
        "settings": settings,
    }
    first = distil(teacher, assistant, images, Degradation(images.size), **same)
    second = distil(assistant, student, images, Degradation(low), **same)
    return first, second


def distil(
    frozen: Network,
    learner: Network,
    images: ImageSet,
    degradation: Degradation,
    channels: Channels | None = None,
    weights: Mapping[str, float] = WEIGHTS,
    recipe: Recipe | None = None,
    flip: bool = True,
    seed: int = 0,
    settings: Settings | None = None,
) -> list[dict]:
    """One stage: train a learner on labels and on the relations of a frozen model.

    Both end in eval mode, and the frozen model without gradients.

    Args:
        frozen: sees the images as they are; its weights stay as they are.
        learner: a network with a classifier, trained in place.
        images: as in `transfer`.
        degradation: what the learner sees of the same crops.
        channels: as in `transfer`.
        weights: as in `transfer`.
        recipe: as in `transfer`; fixed views (`Recipe.views`) save no answers here.
        flip: as in `transfer`.
        seed: as in `transfer`.
        settings: as in `transfer`.

    Returns:
        An entry for each epoch, as in `transfer`.

    Raises:
        HorkdError: if the learner has no classifier for these labels, the images are fewer than a
            batch, a class has none, no order has a weight, or one is zero in every batch.
        Diverged: if the loss is no longer a finite number.
    """
    classes, recipe = len(images.classes), recipe or Recipe()
    if learner.spec.num_classes != classes:
        raise HorkdError(
            f"the learner has a classifier for {learner.spec.num_classes} classes, and the images "
            f"are of {classes}: build it with Network(ModelSpec(name, {classes}))"
        )
    if not any(weights.values()):
        raise HorkdError(
            "no order has a weight, so that nothing is distilled: give one a weight, or train on "
            "labels alone with horkd.training.train"
        )
    require_tuples(weights, {}, recipe.batch_size)
    channels, sharp = channels or statistics(images), Degradation(images.size)
    settings = (settings or Settings()).resolve(learner)
    images, frozen = images.to(settings.device), settings.place(frozen)
    learner.requires_grad_(True)  # an assistant of an earlier call is frozen

    # class centres of the frozen model over the whole training set (Eq. 6)
    centers = None
    if weights.get("C"):
        features = predict(frozen, images.central, channels, sharp).features
        centers = class_centers(features, images.labels, classes)

    # orders 1 and C compare features themselves: if widths differ, the learner's are projected
    projector = None
    if {"1", "C"} & weights.keys() and learner.width != frozen.width:
        with seeded("cpu", seed):
            projector = nn.Linear(learner.width, frozen.width)

    # cross-entropy and Eq. 8, minimised by the one training loop
    objective = Objective(1.0, HybridOrderLoss(weights, centers, projector))
    state = train(
        learner, objective, images, channels, degradation, recipe, settings, seed, flip,
        frozen=Frozen(frozen), frozen_degradation=sharp,
    )  # fmt: skip
    learner.eval()
    return state.history


def statistics(images: ImageSet) -> Channels:
    """Channel mean and deviation of images, on the scale 0 to 1."""
    pixels = images.central.transpose(0, 1).flatten(1).double() / 255  # (3, N·S·S)
    mean, std = pixels.mean(1).tolist(), pixels.std(1).tolist()
    return Channels(tuple(mean), tuple(std))
