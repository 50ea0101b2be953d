"""Whatever is handed to the public functions works, or is one line that says what is wrong."""

import ast
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from horkd import baselines, losses, paths, potentials
from horkd.data import ImageSet
from horkd.data.glyphs import load_glyphs
from horkd.data.lfw import load_lfw
from horkd.data.photos import FULL_CROP, PhotoFiles, decode
from horkd.degradation import Degradation, resize
from horkd.errors import HorkdError
from horkd.lab import runner, store
from horkd.lab.config import RunConfig
from horkd.losses import HybridOrderLoss, class_centers
from horkd.networks import weights
from horkd.networks.imagenet import start_backbone
from horkd.networks.network import ModelSpec, Network, Output, load_network, macs, save_network
from horkd.networks.weights import load_pretrained
from horkd.objectives import Objective
from horkd.predict import embed, predict
from horkd.preprocess import Channels, normalise
from horkd.protocols import neighbours
from horkd.protocols.alignment import align
from horkd.protocols.classification import accuracy, agreement
from horkd.storage import load_tensors
from horkd.training import Recipe
from horkd.two_stages import distil, transfer


def line(call, *arguments, **named) -> str:
    """What a refusal says."""
    with pytest.raises(HorkdError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Features and labels ------------------------------------------------------------------------------

CENTERS = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
PAIRS = {
    "order 1": losses.order1,
    "order 2": losses.order2,
    "order 3": losses.order3,
    "order C": lambda f, g: losses.order_c(f, g, CENTERS),
    "hybrid": lambda f, g: HybridOrderLoss({"1": 1, "2": 1, "3": 1, "C": 1}, CENTERS)(f, g)["loss"],
    "kd": baselines.kd,
    "standardised kd": baselines.kd_standardised,
    "pkt": baselines.pkt,
    "darkrank": baselines.darkrank,
    "absolute": baselines.mkd_absolute,
    "relative": baselines.mkd_relative,
}
ONES = {
    "ψ_d": potentials.pairwise_distances,
    "ψ_a": potentials.angle_cosines,
    "ψ_e": lambda x: potentials.center_distances(x, CENTERS),
    "ψ_e, centres": lambda x: potentials.center_distances(CENTERS, x),
    "unit length": losses.unit_length,
    "class centres": lambda x: class_centers(x, torch.tensor([0, 1, 2, 0, 1, 2]), 3),
}
SEARCHES = {
    "accuracy": lambda x: accuracy(x, [0, 1, 2, 0, 1, 2]),
    "agreement": lambda x: agreement(x, features()),
    "measure": lambda x: neighbours.measure(x, [0, 1, 2, 0, 1, 2]),
    "nearest": lambda x: neighbours.nearest(x, x, 2),
    "align": lambda x: align(x, x),
    "aligned": lambda x: align(features(), features())(x),
    "pad": lambda x: align(features(), features()).pad(x),
}


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("odd", ["numpy", "list", "row", "cube", "elsewhere"])
@pytest.mark.parametrize("who", ["frozen", "learner"])
def test_a_loss_of_no_features_is_one_line(loss, odd, who):
    x = features()
    wrong = {
        "numpy": x.numpy(), "list": x.tolist(), "row": x[0], "cube": x[None],
        "elsewhere": x.to("meta"),
    }[odd]  # fmt: skip
    said = line(loss, *((wrong, x) if who == "frozen" else (x, wrong)))
    assert {
        "numpy": "got ndarray", "list": "got list", "row": "(5,)", "cube": "(1, 6, 5)",
        "elsewhere": "move one of them",
    }[odd] in said  # fmt: skip


@pytest.mark.parametrize("loss", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("frozen", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("learner", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loss_between_any_two_precisions(loss, frozen, learner):
    """In float32, in float64 for a learner in that, with a gradient in the learner's precision."""
    f, g = features().to(frozen), features(1).to(learner).requires_grad_()
    found = loss(f, g)
    assert found.dtype == (torch.float64 if learner == torch.float64 else torch.float32)
    found.backward()
    assert g.grad.dtype == learner
    assert g.grad.isfinite().all()
    exact = loss(f.double(), g.detach().double())
    assert torch.allclose(found.double(), exact, rtol=1e-4)


@pytest.mark.parametrize("call", (ONES | SEARCHES).values(), ids=ONES | SEARCHES)
@pytest.mark.parametrize("odd", ["numpy", "list", "row", "cube"])
def test_no_features_are_one_line(call, odd):
    x = features()
    wrong = {"numpy": x.numpy(), "list": x.tolist(), "row": x[0], "cube": x[None]}[odd]
    shown = {"numpy": "ndarray", "list": "list", "row": "(5,)", "cube": "(1, 6, 5)"}[odd]
    assert shown in line(call, wrong)


@pytest.mark.parametrize("call", (ONES | SEARCHES).values(), ids=ONES | SEARCHES)
def test_features_of_any_precision_and_layout(call):
    x = features()
    call(x.requires_grad_())
    for like in (x.half(), x.bfloat16(), x.double(), x.detach().T.contiguous().T):
        call(like)


MAPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
ON_MAPS = {
    "fitnet": baselines.fitnet,
    "at": lambda f, g: baselines.at([(f, g)]),
    "stages": lambda f, g: baselines.pair_stages([f], [g]),
}


@pytest.mark.parametrize("loss", ON_MAPS.values(), ids=ON_MAPS)
def test_maps(loss):
    for wrong in (MAPS.numpy(), MAPS.tolist(), MAPS[0], MAPS[:1], MAPS.to("meta")):
        line(loss, wrong, MAPS)
        line(loss, MAPS, wrong)
    for kind in (torch.float16, torch.float64):
        loss(MAPS.to(kind), MAPS)
        loss(MAPS, MAPS.to(kind))
    assert baselines.fitnet(MAPS, MAPS.double()).dtype == torch.float64
    assert baselines.at([(MAPS.double(), MAPS)]).dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_whole_numbers(kind):
    x, y = features(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(class_centers(x, y.to(kind), 3), class_centers(x, y, np.int64(3)))
    answer, objective = Output(x, x[:, :3]), Objective()
    terms = objective(answer, y.to(kind), None)
    assert torch.equal(terms["loss"], objective(answer, y, None)["loss"])
    assert neighbours.measure(x, y.to(kind)) == neighbours.measure(x, y.tolist())


def test_labels_that_are_none():
    x, y = features(), torch.tensor([0, 1, 2, 0, 1, 2])
    answer, images = Output(x, x[:, :3]), torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    for wrong in (y.numpy(), y.tolist(), y.float(), y.bool(), y[None], y[:3], y - 1, y + 1):
        line(class_centers, x, wrong, 3)
        line(Objective(), answer, wrong, None)
        line(ImageSet, images, wrong, ("a", "b", "c"))
    assert "labels run from -1 to 1" in line(Objective(), answer, y - 1, None)
    assert "images must be a torch tensor" in line(ImageSet, images.numpy(), y, ("a", "b", "c"))


# Images -------------------------------------------------------------------------------------------

IMAGES = torch.randint(
    256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
)
WRONG_IMAGES = {
    "numpy": IMAGES.numpy(),
    "list": IMAGES.tolist(),
    "float": IMAGES.float(),
    "int64": IMAGES.long(),
    "one image": IMAGES[0],
    "grey": IMAGES[:, :1],
    "alpha": torch.cat([IMAGES, IMAGES[:, :1]], 1),
    "channels last": IMAGES.permute(0, 2, 3, 1),
}
KINDS = ({}, {"blur": 1.0}, {"noise": 3.0}, {"jpeg": 50}, {"upsample": True})
CHANNELS = Channels((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.fixture(scope="module")
def network() -> Network:
    return tiny.network("resnet8x0.25", seed=1).eval()


@pytest.mark.parametrize("wrong", WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_images_that_are_none_are_one_line(network, wrong):
    for kind in KINDS:
        assert "takes" in line(Degradation(8, **kind), wrong)
    assert "images must be" in line(normalise, wrong, CHANNELS.mean, CHANNELS.std)
    assert "takes" in line(predict, network, wrong, CHANNELS, Degradation(8))
    fed = wrong.float() if isinstance(wrong, torch.Tensor) and wrong.ndim == 4 else wrong
    if isinstance(fed, torch.Tensor) and fed.shape == IMAGES.shape:
        fed = IMAGES  # what was not normalised
    assert "images" in line(network, fed)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_images_and_images_in_any_layout(kind):
    degrade = Degradation(8, **kind)
    side = 16 if degrade.upsample else 8
    assert degrade(IMAGES[:0]).shape == (0, 3, side, side)
    seed = torch.Generator().manual_seed
    turned = IMAGES.transpose(2, 3)
    assert torch.equal(degrade(turned, seed(0)), degrade(turned.contiguous(), seed(0)))


def test_images_elsewhere(network):
    said = line(network, torch.zeros(2, 3, 16, 16, device="meta"))
    assert said == "images are on meta, the network's weights on cpu: move one of them"


def test_resizing():
    for wrong in (IMAGES.float(), IMAGES[0], IMAGES[..., :8], IMAGES.numpy()):
        line(resize, wrong, 8)
    assert "size must be 1 or more" in line(resize, IMAGES, 0)
    assert "unknown kernel 'lanczos'" in line(resize, IMAGES, 8, "lanczos")


# Numbers ------------------------------------------------------------------------------------------


def test_numpys_numbers_are_pythons():
    """A configuration becomes JSON, when its run is done at the latest."""
    small = Degradation(np.int64(16), noise=np.float32(2), upsample=np.bool_(True))
    assert small == Degradation(16, noise=2.0, upsample=True)
    recipe = Recipe(
        epochs=np.int64(2), progressive=((np.int64(1), 8),), learning_rate=np.float32(1)
    )
    spec = ModelSpec("resnet8", np.int32(10), embedding=np.int64(4))
    config = RunConfig(
        model=np.str_("resnet8"),
        degradation=replace(small, upsample=False),
        recipe=recipe,
        seed=np.int64(3),
    )
    for made in (small, recipe, spec, config):
        json.dumps(made.__dict__, default=lambda inner: inner.__dict__)
    assert config == replace(config, seed=3)
    assert config.key == replace(config, seed=3).key


@pytest.mark.parametrize("size", ["8", None, 8.0, 8.5])
def test_a_resolution_that_is_no_whole_number(size):
    assert f"resolution must be a whole number, got {size!r}" in line(Degradation, size)


def test_other_numbers_that_are_none(network):
    assert "blur and noise" in line(Degradation, 8, blur=float("nan"))
    assert "blur and noise" in line(Degradation, 8, noise=float("inf"))
    assert "JPEG quality must be a whole number" in line(Degradation, 8, jpeg=50.5)
    assert "batch_size must be 1 or more" in line(
        predict, network, IMAGES, CHANNELS, Degradation(8), batch_size=0
    )
    assert "k must be a whole number" in line(neighbours.nearest, features(), features(), 2.0)
    few = predict(network, IMAGES, CHANNELS, Degradation(8), batch_size=np.int64(3))
    assert torch.allclose(few.logits, predict(network, IMAGES, CHANNELS, Degradation(8)).logits)


# Precision ----------------------------------------------------------------------------------------

SPECS = [
    ModelSpec("resnet8", 10),
    ModelSpec("resnet8", 10, embedding=4),
    ModelSpec("resnet8", 0, embedding=4),
    ModelSpec("resnet8", 10, unit=True),
    ModelSpec("vgg11x0.125", 10),
    ModelSpec("mobilefacenetx0.25", 10),
    ModelSpec("torchvision:resnet18", 10, embedding=8),
]
PRECISIONS = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-4}


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_network_computes_in_the_precision_of_its_weights(spec, precision, tmp_path):
    torch.manual_seed(0)
    network = Network(spec).eval()
    size = 112 if spec.name.startswith("mobile") else 16
    images = torch.randint(256, (3, 3, size, size), dtype=torch.uint8)
    expected = predict(network, images, CHANNELS, Degradation(size))
    cast = copy.deepcopy(network).to(precision)
    found = predict(cast, images, CHANNELS, Degradation(size))
    assert found.features.dtype == found.logits.dtype == torch.float32
    near = PRECISIONS[precision] * expected.features.abs().max()
    assert (found.features - expected.features).abs().max() < near
    assert not torch.equal(found.features, expected.features)
    assert embed(cast, images, CHANNELS, Degradation(size)).dtype == torch.float32
    assert macs(cast, size) == macs(network, size)
    save_network(tmp_path / "network.safetensors", cast)
    tensors, _ = load_tensors(tmp_path / "network.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}
    again = load_network(tmp_path / "network.safetensors").state_dict()
    assert all(torch.equal(again[n], t.to(again[n].dtype)) for n, t in cast.state_dict().items())


def test_a_network_takes_images_of_any_precision(network):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = network(x).logits
    assert torch.allclose(network(x.double()).logits, expected)
    assert torch.equal(network(x.half()).logits, network(x.half().float()).logits)


def three() -> tuple[Network, Network, Network]:
    names = ("resnet8x0.5", "resnet8x0.25", "resnet8x0.25")
    return tuple(tiny.network(name, seed=seed) for seed, name in enumerate(names))


def test_a_frozen_model_may_have_any_precision():
    teacher, assistant, student = three()
    options = {"low": 8, "recipe": tiny.RECIPE, "settings": tiny.SETTINGS}
    found = transfer(teacher.bfloat16(), assistant.double(), student, tiny.data().train, **options)
    for history in found:
        assert history[-1]["terms"]["loss"] < history[0]["terms"]["loss"]
    assert {p.dtype for p in assistant.parameters()} == {torch.float64}


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_learner_of_half_precision_is_refused(precision):
    teacher, student, _ = three()
    before = copy.deepcopy(student.to(precision).state_dict())
    said = line(
        distil, teacher, student, tiny.data().train, Degradation(8),
        recipe=tiny.RECIPE, settings=tiny.SETTINGS,
    )  # fmt: skip
    assert "loses small steps of training: train it after network.float()" in said
    assert 'precision="bf16"' in said
    assert all(torch.equal(t, before[name]) for name, t in student.state_dict().items())


# Paths --------------------------------------------------------------------------------------------


def public(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions and methods of a module that are for others."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inner = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            yield from (n for n in inner if n.name == "__init__" or n.name[0] != "_")
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def test_whoever_takes_a_path_takes_text():
    root, wrong, right = paths.root(), [], 0
    for file in sorted((*root.glob("horkd/**/*.py"), *root.glob("app/**/*.py"))):
        for function in public(ast.parse(file.read_text(encoding="utf-8"))):
            arguments = function.args
            for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                kind = "" if a.annotation is None else ast.unparse(a.annotation)
                if kind in ("Path", "Path | None", "Sequence[Path]"):
                    wrong.append(f"{file.relative_to(root)}: {function.name}({a.arg})")
                right += kind in ("str | Path", "str | Path | None")
    assert not wrong
    assert right > 50


def test_runs_and_files_by_text(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tiny.patch(monkeypatch)
    config = tiny.teacher()
    done = runner.run(config, tiny.SETTINGS, "runs")
    assert done.folder == Path("runs") / config.name
    assert runner.run(config, tiny.SETTINGS, "runs").record == done.record
    assert store.read(config, "runs").record == done.record
    assert store.diverged(config, "runs") is None
    store.export(done, "out/teacher.safetensors")
    network = load_network("out/teacher.safetensors")
    save_network("again.safetensors", network)
    assert weights.digest("again.safetensors") == weights.digest(Path("again.safetensors"))
    load_pretrained("again.safetensors", network.spec)
    alike = Network(replace(network.spec, num_classes=0))
    start_backbone(alike, weights.digest("again.safetensors"), "again.safetensors")
    ours, theirs = alike.backbone.state_dict(), network.backbone.state_dict()
    assert all(torch.equal(ours[name], t) for name, t in theirs.items())
    known = weights.digest("again.safetensors")
    given = RunConfig(config.model, config.degradation, weights=known, classifier=True)
    assert runner.import_network(given, "again.safetensors", tiny.SETTINGS, "runs").folder.is_dir()


def test_data_by_text(monkeypatch, tmp_path, faces_tree):
    monkeypatch.chdir(tmp_path)
    assert load_lfw(str(faces_tree)).faces.root == load_lfw(faces_tree).faces.root
    load_glyphs(per_class=1, cache="drawn")
    assert list(Path("drawn").iterdir())
    Image.new("RGB", (20, 20), "red").save("red.png")
    photos = PhotoFiles(".", ("red.png",), torch.zeros(1).long(), ("red",), crop=FULL_CROP, size=8)
    assert photos.root == Path(".")
    assert photos[0][0].shape == (3, 8, 8)
    assert decode("red.png").size == (20, 20)
