"""Weights of others: files become networks, and networks of others give their own features."""

import os
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from horkd.errors import HorkdError
from horkd.networks.network import (
    ModelSpec,
    Network,
    load_network,
    macs_of,
    parameters,
    save_network,
    spec_from_dict,
)
from horkd.networks.weights import CLASSIFIERS, digest, load_pretrained, read_weights
from horkd.storage import DamagedFile

SPEC = ModelSpec("resnet8x0.25", 0)
#: Files with a classifier are named by a warning, which one test is about.
pytestmark = pytest.mark.filterwarnings("ignore:.*is taken for a classifier:UserWarning")


def randomise(network: nn.Module) -> nn.Module:
    """Weights that tell every layer from every other one, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(3)
        elif tensor.ndim < 2:
            around = 1.0 if name.endswith("weight") else 0.0
            tensor.copy_(around + 0.2 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def network(name: str = "resnet8x0.25", classes: int = 5, embedding: int | None = None) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return randomise(Network(ModelSpec(name, classes, embedding)))


@pytest.fixture
def given() -> Network:
    return network()


def one_line(path: Path, spec: ModelSpec = SPEC) -> str:
    """What is said of a file that is refused; it names the file and takes one line."""
    with pytest.raises(HorkdError) as error:
        load_pretrained(path, spec)
    message = tiny.one_line(error)
    assert path.name in message
    return message


def assert_same(found: Network, expected: Network) -> None:
    """The same backbone, ready to use."""
    assert not found.training
    assert found.classifier is None
    assert found.spec.num_classes == 0
    want, got = expected.backbone.state_dict(), found.backbone.state_dict()
    assert list(want) == list(got)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor), name


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


SUFFIXES = ["safetensors", "pt", "pth", "bin"]


# Files


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.", "module.backbone."])
def test_files_of_a_backbone(tmp_path, given, suffix, classifier, prefix):
    tensors = {f"{prefix}{n}": t for n, t in given.backbone.state_dict().items()}
    if classifier:
        tensors |= {"fc.weight": torch.zeros(7, 16), "fc.bias": torch.zeros(7)}
    path = write(tmp_path / f"w.{suffix}", tensors)
    assert_same(load_pretrained(path, SPEC), given)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("classifier", ["fc.", "classifier.", "head.", "head.fc.", "logits."])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrapper_around_backbone_and_classifier(tmp_path, given, suffix, classifier, prefix):
    tensors = {f"{prefix}{n}": t for n, t in given.backbone.state_dict().items()}
    tensors[f"{prefix}{classifier}weight"] = torch.zeros(7, 16)
    assert_same(load_pretrained(write(tmp_path / f"w.{suffix}", tensors), SPEC), given)


def test_a_classifier_that_is_left_out_is_named(tmp_path, given):
    tensors = {**given.backbone.state_dict(), "fc.weight": torch.zeros(7, 16)}
    says = (
        r"w\.pt: fc\.weight \(7×16\) is taken for a classifier and left out; features are 16 wide"
    )
    with pytest.warns(UserWarning, match=says):
        load_pretrained(write(tmp_path / "w.pt", tensors), SPEC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pretrained(write(tmp_path / "none.pt", given.backbone.state_dict()), SPEC)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "backbone"])
def test_nested_dictionaries(tmp_path, given, key):
    state = {f"module.{n}": t for n, t in given.state_dict().items()}
    content = {"epoch": 3, "arch": "resnet8", key: state, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "w.pt")
    assert_same(load_pretrained(tmp_path / "w.pt", SPEC), given)
    torch.save({"state_dict": content}, tmp_path / "deep.pt")
    assert_same(load_pretrained(tmp_path / "deep.pt", SPEC), given)


def test_a_tensor_beside_the_state_dict(tmp_path, given):
    content = {"state_dict": given.backbone.state_dict(), "best": torch.tensor(99.1)}
    torch.save(content, tmp_path / "w.pt")
    assert_same(load_pretrained(tmp_path / "w.pt", SPEC), given)


def test_parameters_and_old_files(tmp_path, given):
    """Parameters instead of tensors, and the format that torch.save had before zip archives."""
    state = {n: nn.Parameter(t, False) for n, t in given.backbone.state_dict().items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load_pretrained(tmp_path / "old.pth", SPEC), given)


def test_names_are_only_shortened_where_all_share_the_prefix(tmp_path):
    path = write(tmp_path / "w.pt", {"module.a": torch.zeros(1), "b": torch.zeros(1)})
    assert list(read_weights(path)) == ["module.a", "b"]
    tensors = {
        "model.a": torch.zeros(1),
        "model.fc.weight": torch.ones(2),
        "fc.bias": torch.ones(1),
    }
    found = read_weights(write(tmp_path / "v.pt", tensors))
    assert set(found) == {"a", "fc.weight", "fc.bias"}


def test_files_of_this_project(tmp_path, given):
    path = tmp_path / "own.safetensors"
    save_network(path, given, key="abc")
    assert_same(load_pretrained(path, SPEC), given)
    assert_same(load_pretrained(path, replace(SPEC, num_classes=9)), given)
    save_network(path, given, bits=16, data="glyphs", classes=list("abcde"))
    loaded = load_pretrained(path, SPEC)
    assert_same(loaded, load_network(path))  # itself rounded to float16
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert "holds resnet8x0.25" in one_line(path, ModelSpec("resnet14x0.25", 0))
    assert "holds resnet8x0.25" in one_line(path, replace(SPEC, embedding=8))


def test_the_usual_embedding_of_mobilefacenet_may_be_named(tmp_path):
    ours = network("mobilefacenetx0.125", 0)
    save_network(tmp_path / "own.safetensors", ours)
    assert_same(
        load_pretrained(tmp_path / "own.safetensors", ModelSpec("mobilefacenetx0.125", 0, 128)),
        ours,
    )


def test_a_damaged_file_of_this_project(tmp_path, given):
    path = tmp_path / "own.safetensors"
    save_network(path, given)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedFile, match=r"own\.safetensors"):
        load_pretrained(path, SPEC)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, given, suffix, dtype):
    state = given.backbone.state_dict()
    tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    found = load_pretrained(write(tmp_path / f"w.{suffix}", tensors), SPEC).backbone.state_dict()
    for name, tensor in tensors.items():
        assert found[name].dtype == state[name].dtype
        assert torch.equal(found[name], tensor.to(state[name].dtype)), name


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_endings_in_capitals(tmp_path, given, suffix):
    path = write(tmp_path / f"w.{suffix}", given.backbone.state_dict())
    assert_same(load_pretrained(path.rename(tmp_path / f"W.{suffix.upper()}"), SPEC), given)


def test_counters_of_batch_norm_may_be_absent(tmp_path, given):
    state = given.backbone.state_dict()
    tensors = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    assert len(tensors) < len(state)
    found = load_pretrained(write(tmp_path / "w.safetensors", tensors), SPEC)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(found(x).features, given(x).features)


def test_statistics_stay_in_the_specification(tmp_path, given):
    path = write(tmp_path / "w.pt", given.backbone.state_dict())
    spec = replace(SPEC, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    found = load_pretrained(path, spec)
    assert found.spec == spec
    save_network(tmp_path / "again.safetensors", found)
    assert load_network(tmp_path / "again.safetensors").spec == spec
    content = {"name": "resnet8", "num_classes": 0, "mean": [0.1, 0.2, 0.3], "std": None}
    assert spec_from_dict(content) == ModelSpec("resnet8", 0, mean=(0.1, 0.2, 0.3))


def test_loading_leaves_the_random_numbers_of_a_run_to_its_seed(tmp_path, given):
    path = write(tmp_path / "w.pt", given.backbone.state_dict())
    torch.manual_seed(1)
    first = load_pretrained(path, SPEC)
    torch.manual_seed(2)
    assert_same(load_pretrained(path, SPEC), first)


# Refused files


@pytest.mark.parametrize("name", ["none.safetensors", "none.pt", "folder"])
def test_a_file_that_is_not_there(tmp_path, name):
    (tmp_path / "folder").mkdir()
    assert "no weights file" in one_line(tmp_path / name)
    with pytest.raises(HorkdError, match=f"there is no weights file .*{name}"):
        digest(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "damage", [lambda x: b"", lambda x: x[:7], lambda x: x[: len(x) // 2], lambda x: b"hello" * 90]
)
def test_damaged_files(tmp_path, given, suffix, damage):
    path = write(tmp_path / f"w.{suffix}", given.backbone.state_dict())
    path.write_bytes(damage(path.read_bytes()))
    message = one_line(path)
    assert "not a whole safetensors" in message or "not a plain file of weights" in message


class Sneaky:
    """A pickle of it calls a function when it is read."""

    ran: tuple[str, ...] = ()

    def __reduce__(self):
        return run_code, ("code of the file",)


def run_code(word: str) -> str:
    Sneaky.ran = (*Sneaky.ran, word)
    return word


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, given, protocol, zipped):
    Sneaky.ran = ()
    assert pickle.loads(pickle.dumps(Sneaky())) == "code of the file"
    assert Sneaky.ran == ("code of the file",)  # it would
    content = {"state_dict": given.backbone.state_dict(), "extra": Sneaky()}
    path = tmp_path / "w.pt"
    options = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    torch.save(content, path, **options)
    assert "not a plain file of weights" in one_line(path)
    assert Sneaky.ran == ("code of the file",)


def test_whole_modules_and_plain_pickles_are_refused(tmp_path, given):
    torch.save(given, tmp_path / "module.pt")
    assert "save the state dict alone" in one_line(tmp_path / "module.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": [1, 2]}))
    one_line(tmp_path / "plain.pkl")


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {"epoch": 3}}, [1, 2], torch.zeros(3), None]
)
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    assert "holds no state dict" in one_line(tmp_path / "w.pt")


def test_a_file_with_nothing_but_a_classifier(tmp_path):
    path = write(tmp_path / "w.safetensors", {"fc.weight": torch.zeros(3, 16)})
    assert "tensors are not in it" in one_line(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet14x0.25", "there, not ("),
        ("resnet8x0.5", "0.0.weight is (4, 3, 3, 3) there, not (8, 3, 3, 3)"),
        ("mobilefacenet", "tensors are not in it, the first is conv1.0.weight (the file has 0."),
        ("torchvision:resnet18", "tensors are not in it, the first is conv1.weight"),
        ("timm:resnet18", "tensors are not in it, the first is conv1.weight"),
    ],
)
def test_another_architecture_or_width(tmp_path, given, suffix, name, says):
    path = write(tmp_path / f"w.{suffix}", given.backbone.state_dict())
    message = one_line(path, ModelSpec(name, 0))
    assert f"does not fit {name}" in message
    assert says in message


def test_a_deeper_network_does_not_fit_a_shallow_one(tmp_path):
    deep = network("resnet14x0.25")
    path = write(tmp_path / "w.pt", deep.backbone.state_dict())
    message = one_line(path)
    assert "does not fit resnet8x0.25" in message


def test_more_tensors_than_the_architecture_has(tmp_path, given):
    state = given.backbone.state_dict()
    path = write(tmp_path / "w.pt", {**state, "0.99.weight": torch.zeros(2)})
    assert "it has 1 more tensors, the first is 0.99.weight" in one_line(path)


def test_an_embedding_that_is_too_wide_or_absent(tmp_path):
    path = write(tmp_path / "w.pt", network(embedding=6).backbone.state_dict())
    assert_same(load_pretrained(path, replace(SPEC, embedding=6)), network(embedding=6))
    assert "is (6, 16) there, not (7, 16)" in one_line(path, replace(SPEC, embedding=7))
    assert "2 more tensors, the first is 3.weight" in one_line(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_numbers_that_are_not_finite(tmp_path, given, value, suffix):
    state = {n: t.clone() for n, t in given.backbone.state_dict().items()}
    next(iter(state.values()))[0, 0, 0, 0] = value
    assert "not finite" in one_line(write(tmp_path / f"w.{suffix}", state))


def test_unknown_names(tmp_path):
    for name, says in (
        ("torchvision:resnet19", "torchvision has no classification network 'resnet19'"),
        ("timm:resnet19", "timm has no network 'resnet19'"),
        ("torchvision:squeezenet1_0", "does not end in a linear layer"),
        ("keras:resnet50", "unknown model"),
    ):
        with pytest.raises(HorkdError, match=says) as error:
            load_pretrained(tmp_path / "none.pt", ModelSpec(name, 0))
        assert "\n" not in str(error.value)


def test_the_digest_is_that_of_the_file(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert digest(tmp_path / "w") == "ba7816bf8f01cfea"  # of FIPS 180-2
    (tmp_path / "w").write_bytes(b"abd")
    assert digest(tmp_path / "w") != "ba7816bf8f01cfea"


# Networks without a classifier, and those of libraries


def test_without_classes_there_are_features_and_empty_logits():
    found = network(classes=0)
    out = found(torch.randn(3, 3, 16, 16), maps=True)
    assert found.classifier is None
    assert out.features.shape == (3, 16)
    assert out.logits.shape == (3, 0)
    assert len(out.maps) == 3
    assert parameters(found) == parameters(network(classes=4)) - 4 * 17


LIBRARIES = [
    ("torchvision:resnet18", 512),
    ("torchvision:mobilenet_v3_small", 1024),
    ("timm:resnet18", 512),
    pytest.param(*("timm:mobilenetv3_small_050", 1024)),
]


def library(name: str) -> tuple[nn.Module, nn.Linear]:
    """The library's own network, and the linear layer at its end."""
    source, _, architecture = name.partition(":")
    torch.manual_seed(3)
    if source == "timm":
        theirs = timm.create_model(architecture, num_classes=11)
    else:
        theirs = torchvision.models.get_model(architecture, weights=None, num_classes=11)
    last = [m for m in theirs.modules() if isinstance(m, nn.Linear)][-1]
    assert last.out_features == 11
    return randomise(theirs), last


def before(theirs: nn.Module, last: nn.Linear, x: Tensor) -> Tensor:
    """What the last linear layer is fed."""
    seen = []
    handle = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        theirs(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(("name", "width"), LIBRARIES)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_features_are_what_the_librarys_classifier_sees(tmp_path, name, width, suffix):
    theirs, last = library(name)
    path = write(tmp_path / f"w.{suffix}", theirs.state_dict())
    ours = load_pretrained(path, ModelSpec(name, 1000))
    assert ours.width == width == last.in_features
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        out = ours(x, maps=True)
    assert len(out.maps) == len(ours.channels) == (4 if "resnet" in name else 0)
    assert out.logits.shape == (2, 0)
    torch.testing.assert_close(out.features, before(theirs, last, x), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_round_trip_of_a_librarys_network(tmp_path, name):
    theirs, _ = library(name)
    path = write(tmp_path / "w.pth", {f"module.{n}": t for n, t in theirs.state_dict().items()})
    spec = ModelSpec(name, 0)
    ours = load_pretrained(path, spec)
    save_network(tmp_path / "own.safetensors", ours)
    assert_same(load_network(tmp_path / "own.safetensors", spec), ours)
    assert_same(load_pretrained(tmp_path / "own.safetensors", spec), ours)
    bare = write(tmp_path / "trunk.pth", ours.backbone.state_dict())  # named trunk.conv1.weight, …
    assert_same(load_pretrained(bare, spec), ours)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_a_librarys_network_may_get_classes_and_an_embedding(name):
    ours = Network(ModelSpec(name, 5, embedding=6)).eval()
    assert ours.spec.parse() == (name, 1.0)
    with torch.no_grad():
        out = ours(torch.randn(2, 3, 32, 32))
        torch.testing.assert_close(out.logits, ours.classifier(out.features))
    assert out.features.shape == (2, 6)
    assert out.logits.shape == (2, 5)


def test_a_file_of_a_librarys_network_with_an_embedding(tmp_path):
    spec = ModelSpec("torchvision:resnet18", 0, embedding=6)
    ours = randomise(Network(spec))
    path = write(tmp_path / "w.pth", ours.backbone.state_dict())
    assert_same(load_pretrained(path, spec), ours)
    assert "has 0 linear layers of 7×512" in one_line(path, replace(spec, embedding=7))


def test_timm_is_asked_for_where_it_is_absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(HorkdError, match=r"pip install 'horkd\[metric\]'"):
        Network(ModelSpec("timm:resnet18", 0))


# MobileFaceNet


def reference(state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, list[int]]:
    """MobileFaceNet by its paper, on plain tensors: features and the side of every map."""

    def conv(x, name, stride=1, pad=0, depthwise=False):
        weight = state[f"{name}.weight"]
        groups = x.shape[1] if depthwise else 1
        return F.conv2d(x, weight, None, stride, pad, 1, groups)

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{what}"].reshape(1, -1, *[1] * (x.ndim - 2))
            for what in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(norm(conv(x, "conv1.0", 2, 1), "conv1.1"))
    sides = [x.shape[-1]]
    x = norm(conv(x, "dw_conv.depthwise", 1, 1, True), "dw_conv.bn1").clamp(min=0)
    x = norm(conv(x, "dw_conv.pointwise"), "dw_conv.bn2").clamp(min=0)
    strides = [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1]  # 5, 1, 6, 1, 2 blocks
    for index, stride in enumerate(strides):
        name = f"features.{index}.conv"
        y = relu6(norm(conv(x, f"{name}.0.0"), f"{name}.0.1"))
        y = relu6(norm(conv(y, f"{name}.1.0", stride, 1, True), f"{name}.1.1"))
        y = norm(conv(y, f"{name}.2"), f"{name}.3")
        x = x + y if stride == 1 and x.shape == y.shape else y
        sides.append(x.shape[-1])
    x = relu6(norm(conv(x, "conv2.0"), "conv2.1"))
    x = norm((x * state["gdconv.depthwise.weight"][:, 0]).sum((2, 3)), "gdconv.bn")
    x = x @ state["conv3.weight"][:, :, 0, 0].T + state["conv3.bias"]
    return norm(x, "bn"), sides


@pytest.mark.parametrize(
    ("name", "embedding"), [("mobilefacenet", None), ("mobilefacenetx0.25", 6)]
)
def test_mobilefacenet_is_the_papers(name, embedding):
    ours = network(name, 0, embedding).double()
    x = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    with torch.no_grad():
        found = ours(x).features
        want, sides = reference(ours.backbone.state_dict(), x)
    torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)
    assert found.std() > 0.01
    assert sides == [56, *[28] * 5, *[14] * 7, *[7] * 3]


def test_parameters_and_cost_of_mobilefacenet():
    assert parameters(Network(ModelSpec("mobilefacenet", 0))) == 999_936
    assert parameters(Network(ModelSpec("mobilefacenet", 0, 128))) == 999_936
    wider = parameters(Network(ModelSpec("mobilefacenet", 0, 512)))
    assert wider == 999_936 + (512 - 128) * (512 + 1 + 2)  # weights, a bias, and BatchNorm's two
    with_classes = parameters(Network(ModelSpec("mobilefacenet", 10)))
    assert with_classes == 999_936 + 10 * 129
    assert 215e6 < macs_of(ModelSpec("mobilefacenet", 0), 112) < 235e6  # the paper: 221 M


@pytest.mark.parametrize(
    ("name", "channels"),
    [("mobilefacenet", (64, 128, 128)), ("mobilefacenetx0.125", (8, 16, 16))],
)
def test_maps_of_mobilefacenet(name, channels):
    ours = network(name, 0)
    with torch.no_grad():
        out = ours(torch.randn(2, 3, 112, 112), maps=True)
        plain = ours(torch.zeros(1, 3, 112, 112))
    assert ours.channels == channels
    assert [m.shape[1:] for m in out.maps] == [
        (k, s, s) for k, s in zip(channels, (28, 14, 7), strict=True)
    ]
    assert out.features.shape == (2, 128)  # a width multiplier leaves the embedding alone
    assert plain.maps == ()


def test_the_width_of_mobilefacenet_scales_all_channels():
    state = network("mobilefacenetx0.125", 0).backbone.state_dict()
    assert state["conv1.0.weight"].shape == (8, 3, 3, 3)
    assert state["features.0.conv.0.0.weight"].shape == (16, 8, 1, 1)  # twice as wide inside
    assert state["features.5.conv.0.0.weight"].shape == (32, 8, 1, 1)  # four times
    assert state["conv2.0.weight"].shape == (64, 16, 1, 1)
    assert state["conv3.weight"].shape == (128, 64, 1, 1)


@pytest.mark.parametrize("size", [16, 96, 128, 224])
def test_another_size_is_refused_by_mobilefacenet(size):
    with pytest.raises(HorkdError, match="takes images of 112 pixels") as error:
        network("mobilefacenetx0.125", 0)(torch.zeros(1, 3, size, size))
    assert "\n" not in str(error.value)


# The real weights


@pytest.fixture(scope="module")
def real() -> Path:
    root = os.environ.get("HORKD_DATA", "").strip()
    if not root:
        pytest.skip("HORKD_DATA is not set")
    folder = Path(root) / "weights"
    for name in ("mobilefacenet", "mobilefacenet_check"):
        if not (folder / f"{name}.safetensors").is_file():
            pytest.skip(f"HORKD_DATA has no weights/{name}.safetensors")
    return folder


@pytest.mark.parametrize("name", ["fc", "embedding", "embedder", "head.1"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_linear_layer_of_an_embedding_has_any_name(tmp_path, name, wrapped):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trunk = torchvision.models.resnet18(weights=None)
    trunk.fc = nn.Identity()
    trunk = randomise(trunk)
    weight, bias = torch.randn(12, 512), torch.randn(12)
    inside = {f"{'trunk.' * wrapped}{k}": v for k, v in trunk.state_dict().items()}
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled = trunk(x)
    spec = ModelSpec("torchvision:resnet18", 0, 12)
    for more, offset in (({f"{name}.bias": bias}, bias), ({}, torch.zeros(12))):
        path = tmp_path / f"{len(more)}.safetensors"
        save_file(inside | {f"{name}.weight": weight} | more, path)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            found = load_pretrained(path, spec)(x).features
        torch.testing.assert_close(found, pooled @ weight.T + offset)


def test_an_embedding_is_one_layer(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    spec = ModelSpec("torchvision:resnet18", 0, 1000)
    save_file(state | {"other.weight": torch.zeros(1000, 512)}, tmp_path / "two.safetensors")
    with pytest.raises(HorkdError, match="has 2 linear layers of 1000×512 after torchvision"):
        load_pretrained(tmp_path / "two.safetensors", spec)
    save_file(state, tmp_path / "one.safetensors")
    with pytest.raises(HorkdError, match="has 0 linear layers of 64×512 after torchvision"):
        load_pretrained(tmp_path / "one.safetensors", replace(spec, embedding=64))


def test_published_weights_give_the_published_embeddings(real):
    check = load_file(real / "mobilefacenet_check.safetensors")
    ours = load_pretrained(real / "mobilefacenet.safetensors", ModelSpec("mobilefacenet", 0))
    assert check["input"].shape == (2, 3, 112, 112)
    with torch.no_grad():
        features = ours(check["input"]).features
        want, _ = reference(ours.backbone.double().state_dict(), check["input"].double())
    torch.testing.assert_close(features, check["embedding"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features, want.float(), atol=1e-4, rtol=1e-4)


def test_names_of_classifiers_are_no_names_of_our_own_layers():
    """Else a file without that layer would be taken for one with it."""
    for name in ("resnet8x0.25", "vgg11x0.1", "mobilefacenetx0.1"):
        state = network(name, 0, 4).backbone.state_dict()
        assert not any(n.startswith(CLASSIFIERS) for n in state)
