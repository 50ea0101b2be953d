"""Classification: Table 1, Fig. 4, the sweep of resolutions, and what was tried for them."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horkd.data import find
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.networks.network import load_network
from horkd.networks.weights import digest
from horkd.storage import DamagedFile
from horkd.studies.arm import Arm
from horkd.studies.classification import arms as arms_
from horkd.studies.classification.presets import FULL, PRESETS, ClassificationPreset
from horkd.studies.classification.trials import loss_arms, recipe_arms
from horkd.studies.task import ON_REQUEST, TRIALS, Study, Task
from horkd.training import Recipe

if TYPE_CHECKING:
    from horkd.studies.results import Source


def configure(preset: ClassificationPreset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm: `horkd.studies.study.configure`."""
    weights = {"1": 1.0, **dict(preset.orders)}  # Eq. 8 gives order 1 no weight of its own
    weights |= dict(dict(preset.orders_of).get(arm.name, ()))
    fields: dict[str, Any] = {
        "orders": tuple((order, weights[order] * arm.scale.get(order, 1.0)) for order in arm.orders)
    }
    if fields["orders"] and preset.balance and arm.name not in dict(preset.orders_of):
        fields["balance"] = True
    if arm.answers:
        weight, labels = {name: rest for name, *rest in preset.answers}[arm.answers]
        fields |= {"baselines": ((arm.answers, weight),), "cross_entropy": labels}
    return RunConfig(
        getattr(preset, arm.network),
        _seen(preset, arm),
        None if arm.frozen is None else frozen_of(preset, arm.frozen),
        **fields | dict(arm.fields),
        data=preset.data,
        per_class=preset.per_class,
        validation=preset.validation or arm.fields.get("trial", False),
        recipe=_recipe(preset, arm),
        seed=seed,
    )


def _seen(preset: ClassificationPreset, arm: Arm) -> Degradation:
    return Degradation(preset.low if arm.pixels is None else arm.pixels, arm.kernel)


def _recipe(preset: ClassificationPreset, arm: Arm) -> Recipe:
    recipe = preset.teacher_recipe if arm.network == "teacher" else preset.recipe
    factor = preset.patience if arm.epochs == "patience" else arm.epochs
    if arm.epochs == "compute":  # an epoch costs by the pixels of its images
        factor = 1 + (FULL / preset.low) ** 2
    return replace(recipe, **{"epochs": round(recipe.epochs * factor), **arm.recipe})


def frozen_of(preset: ClassificationPreset, name: str) -> RunConfig:
    """What is distilled from under the name of an arm: a network from a file, or the arm's run."""
    others = (*loss_arms(preset), *arms_.nested_arms(preset))
    arm = {a.name: a for a in (*arms_.TWO_STAGE, *arms_.SECOND, *others)}[name]
    given = dict(preset.given).get(name)
    if given is None:
        return configure(preset, arm, arm.seed)
    return RunConfig(
        getattr(preset, arm.network), _seen(preset, arm), data=preset.data,
        validation=preset.validation, weights=given, classifier=True,
    )  # fmt: skip


def takes(data: str) -> bool:
    """Whether a data set can be learnt to be classified: its classes are tested, too."""
    source = find(data)
    return source is not None and source.kind == "images"


def adapt(preset: ClassificationPreset, data: str) -> ClassificationPreset:
    """A preset on another set; a number of images chosen for its own says nothing about that."""
    if data == preset.data:
        return preset
    return replace(preset, data=data, per_class=None)


def meant(data: str, given: bool) -> str:
    """The preset that is meant by data alone; a teacher's file alone is one for faces."""
    return "quick" if (takes(data) if data else not given) else ""


def with_teacher(
    preset: ClassificationPreset, file: str | Path, model: str, statistics: str
) -> tuple[ClassificationPreset, RunConfig]:
    """A preset with a teacher of `horkd export`, which says itself what it is, and its run."""
    if model or statistics != "imagenet":
        raise HorkdError(
            f"preset {preset.name} takes a teacher of `horkd export`, which says itself what "
            "it is: give its file alone"
        )
    others = [(name, known) for name, known in preset.given if name != "teacher"]
    preset = replace(preset, given=(("teacher", digest(file)), *others))
    try:
        load_network(file)
    except DamagedFile:
        raise HorkdError(
            f"preset {preset.name} takes a teacher of `horkd export`, and {file} is not one"
        ) from None
    return preset, frozen_of(preset, "teacher")


def trials_page(preset: ClassificationPreset, source: "Source", out: str | Path) -> Path:
    """The page of a preset's trials: `horkd.studies.classification.trials_page.write`."""
    from horkd.studies.classification import trials_page  # slow: pandas

    return trials_page.write(preset, source, out)


STUDIES = (
    Study(
        "campaign",
        "the central comparison of Table 1, in order of worth, for `paper-short`",
        arms_.campaign_arms,
    ),
    Study(
        "two_stage",
        "does each stage of the transfer help?",
        lambda preset: arms_.TWO_STAGE,
        notebook="02_two_stage_transfer",
        read_by=(
            *("00_tour", "01_relational_potentials", "03_table1", "04_order_ablation"),
            *("05_resolution_sweep", "06_faces"),
        ),
    ),
    Study(
        "table1",
        "Table 1: is it better than other distillation, and than none?",
        arms_.table1_arms,
        notebook="03_table1",
    ),
    Study(
        "orders",
        "Fig. 4: which orders? All subsets of {1, 2, 3, C} at two resolutions",
        arms_.order_arms,
        notebook="04_order_ablation",
    ),
    Study(
        "resolutions",
        "from which resolution on does a high-resolution teacher help?",
        arms_.resolution_arms,
        notebook="05_resolution_sweep",
    ),
    Study(
        "faces",
        "Tables 2 and 3 on the embedded set: people are characters",
        arms_.embedded_face_arms,
        notebook="06_faces",
    ),
    Study(
        "plus",
        "what could be added to the paper's form?",
        arms_.plus_arms,
        notebook="03_table1",
    ),
    Study(
        "weights",
        "which weights? On the validation split",
        arms_.weight_arms,
        notebook="04_order_ablation",
    ),
    Study(
        "long",
        "the campaign with 100 epochs: a head start, or a lasting gain?",
        arms_.long_arms,
        ON_REQUEST,
    ),
    Study(
        "nested",
        "two more assistants, each with its students",
        arms_.nested_arms,
        ON_REQUEST,
    ),
    # read on the validation split; no trial ever looks at the test images
    Study("recipe", "which learning rate, weight decay, batch, warm-up?", recipe_arms, TRIALS),
    Study("losses", "which weights, of every method alike?", loss_arms, TRIALS),
)

TASK = Task(
    name="classification",
    what="classification",
    presets=PRESETS,
    studies=STUDIES,
    configure=configure,
    exports=lambda preset: ["teacher", "assistant", "student"],
    takes=takes,
    adapt=adapt,
    meant=meant,
    with_teacher=with_teacher,
    trials_page=trials_page,
)
