"""The degradation operator, against Pillow and against formulas written out."""

import io

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from horkd.degradation import KERNELS, Degradation, resize
from horkd.errors import HorkdError
from horkd.predict import predict
from horkd.preprocess import Preprocess

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Glyphs, noise of full contrast and a hard edge: overshoot, aliasing and clipping."""
    noise = torch.randint(256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    edge = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    edge[..., 11:] = 255
    return torch.cat([tiny.data().train.images[:12], noise.to(torch.uint8), edge])


def as_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pillow_resize(images: torch.Tensor, size: int, resample) -> torch.Tensor:
    return torch.stack([as_tensor(as_pillow(i).resize((size, size), resample)) for i in images])


def assert_same_bytes(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal; another machine's rounding of a weight may move a value in a thousand by one level."""
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference == 0).float().mean() > 0.999


@pytest.mark.parametrize("kernel", FILTERS)
@pytest.mark.parametrize("size", [4, 7, 8, 12, 16, 20, 31, 48, 64])
def test_antialiased_kernels_are_pillows(images, kernel, size):
    ours = resize(images, size, kernel)
    assert ours.dtype == torch.uint8
    assert_same_bytes(ours, pillow_resize(images, size, FILTERS[kernel]))


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_area_is_pillows_box_at_whole_ratios(images, size):
    theirs = pillow_resize(images, size, Image.Resampling.BOX)
    assert_same_bytes(resize(images, size, "area"), theirs)


def test_area_weighs_pixels_by_their_overlap():
    """3 -> 2 pixels: the middle source pixel is shared."""
    levels = np.array([[0.0, 90, 240], [30, 60, 120], [200, 100, 50]])
    source = torch.tensor(levels, dtype=torch.uint8).expand(1, 3, 3, 3)
    weights = np.array([[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    want = np.floor(weights @ np.floor(levels @ weights.T + 0.5) + 0.5)
    assert resize(source, 2, "area")[0, 0].tolist() == want.tolist()


@pytest.mark.parametrize("size", [5, 8, 16, 21])
def test_nearest_picks_existing_pixels(images, size):
    positions = np.floor((np.arange(size) + 0.5) * 32 / size).astype(int)  # centre of each target
    assert torch.equal(resize(images, size, "nearest"), images[..., positions, :][..., positions])


@every_kernel
def test_a_flat_image_stays_flat(kernel):
    flat = torch.full((1, 3, 32, 32), 137, dtype=torch.uint8)
    for size in (1, 3, 8, 13, 31):
        assert (Degradation(size, kernel)(flat) == 137).all()
        assert (Degradation(size, kernel, upsample=True)(flat) == 137).all()


def test_only_nearest_aliases():
    """A checkerboard of single pixels holds nothing at half the resolution: grey, not black."""
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).to(torch.uint8)
    board = board.expand(1, 3, 32, 32)
    for kernel in ("bicubic", "area", "bilinear"):
        inner = Degradation(8, kernel)(board)[..., 1:-1, 1:-1].int()
        assert (inner - 128).abs().max() <= 2
    assert set(Degradation(8, "nearest")(board).unique().tolist()) <= {0, 255}


# What comes out


@every_kernel
def test_identity_is_the_same_object_when_sizes_agree(images, kernel):
    assert Degradation(32, kernel)(images) is images
    assert Degradation(32, kernel, upsample=True)(images) is images


@every_kernel
@pytest.mark.parametrize("size", [1, 8, 13, 31])
def test_sizes(images, kernel, size):
    assert Degradation(size, kernel)(images).shape == (len(images), 3, size, size)
    up = Degradation(size, kernel, upsample=True)(images)
    assert up.shape == images.shape
    assert up.dtype == torch.uint8
    assert torch.equal(up, resize(Degradation(size, kernel)(images), 32, kernel))


@pytest.mark.parametrize("kernel", FILTERS)
def test_upsampling_back_is_pillows_both_ways(images, kernel):
    small = Degradation(16, kernel)(images)
    theirs = pillow_resize(small, 32, FILTERS[kernel])
    assert_same_bytes(Degradation(16, kernel, upsample=True)(images), theirs)


@every_kernel
def test_a_batch_is_its_images_one_by_one(images, kernel):
    degrade = Degradation(12, kernel, upsample=True, blur=0.8, jpeg=70)
    one_by_one = torch.cat([degrade(image[None]) for image in images])
    assert torch.equal(degrade(images), one_by_one)


@every_kernel
def test_memory_format_and_slices_change_nothing(images, kernel):
    want = Degradation(12, kernel)(images)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(Degradation(12, kernel)(last), want)
    mirrored = images.flip(3)
    assert torch.equal(
        Degradation(12, kernel)(mirrored[::2]), Degradation(12, kernel)(mirrored)[::2]
    )


@every_kernel
def test_the_input_is_left_alone(images, kernel):
    before = images.clone()
    Degradation(12, kernel, upsample=True, blur=1, noise=9, jpeg=50)(images)
    assert torch.equal(images, before)


def test_autocast_does_not_change_it(images):
    degrade = Degradation(12, blur=1.3, upsample=True)
    want = degrade(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(degrade(images), want)


# Blur, noise, JPEG


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.2])
def test_blur_is_a_gaussian(images, sigma):
    radius = int(np.ceil(3 * sigma))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    x = np.pad(images.numpy().astype(float), [(0, 0)] * 2 + [(radius, radius)] * 2, mode="reflect")
    x = sum(w * x[..., o : o + 32] for o, w in enumerate(weights))
    x = sum(w * x[..., o : o + 32, :] for o, w in enumerate(weights))
    blurred = Degradation(32, blur=sigma)(images).numpy()
    assert np.abs(blurred - x).max() <= 0.51
    # the blur comes first, at the source's resolution
    then = resize(torch.from_numpy(blurred), 16)
    assert torch.equal(Degradation(16, blur=sigma)(images), then)


def test_a_blur_wider_than_the_image_is_no_crash():
    small = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    out = Degradation(4, blur=4.0)(small.to(torch.uint8)).float()
    assert out.shape == (2, 3, 4, 4)
    assert out.std() < small.float().std() / 4


def test_noise_has_the_deviation_asked_for():
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    noise = Degradation(16, noise=10)(grey, generator).float() - 128  # 30,720 draws
    assert abs(noise.mean()) < 0.25  # standard error 0.057
    assert abs(noise.std() - 10) < 0.2  # rounding to levels adds 0.004
    assert abs((noise.abs() < 10.5).float().mean() - 0.706) < 0.02  # a normal's share within 1.05 σ
    channels = noise.transpose(0, 1).flatten(1)
    assert torch.corrcoef(channels)[0, 1:].abs().max() < 0.05


def test_noise_is_clipped_not_wrapped():
    generator = torch.Generator().manual_seed(0)
    black = Degradation(16, noise=5)(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), generator)
    assert black.max() < 40


def test_noise_follows_its_seed(images):
    degrade = Degradation(16, noise=8)

    def draw(seed: int) -> torch.Tensor:
        return degrade(images, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1)[0], draw(1)[1])


def test_a_generator_without_noise_is_not_used(images):
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    Degradation(16, blur=1, jpeg=50)(images, generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("quality", [10, 75, 100])
def test_jpeg_is_pillows(images, quality):
    ours = Degradation(16, jpeg=quality)(images)
    for small, image in zip(resize(images, 16), ours, strict=True):
        file = io.BytesIO()
        as_pillow(small).save(file, "JPEG", quality=quality)
        assert torch.equal(image, as_tensor(Image.open(file)))


def test_a_lower_quality_costs_more(images):
    plain = Degradation(16)(images).float()
    cost = [(Degradation(16, jpeg=q)(images) - plain).abs().mean() for q in (95, 50, 5)]
    assert cost[0] < cost[1] < cost[2]


# One operator for training and evaluation


@pytest.mark.parametrize(
    "degradation",
    [
        Degradation(32),
        Degradation(16),
        Degradation(12, "area", upsample=True, blur=0.7, jpeg=60),
        Degradation(16, noise=6),
    ],
    ids=str,
)
def test_training_and_evaluation_see_the_same_input(degradation):
    data = tiny.data()
    network, seen = tiny.network(), []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    predict(network, data.test.images, data, degradation)
    training = Preprocess(degradation, data.mean, data.std)
    noise = torch.Generator().manual_seed(0)  # which predict draws from
    assert torch.equal(training(data.test.images, noise), torch.cat(seen))
    levels = degradation(data.test.images, torch.Generator().manual_seed(0)).double() / 255
    mean, std = (torch.tensor(v).double()[:, None, None] for v in (data.mean, data.std))
    torch.testing.assert_close(seen[0].double(), (levels - mean) / std, atol=1e-6, rtol=1e-6)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"size": 0}, "resolution must be at least 1 pixel, got 0"),
        ({"size": -3}, "resolution must be at least 1 pixel, got -3"),
        ({"size": 16, "kernel": "lanczos"}, "unknown kernel 'lanczos': choose from bicubic"),
        ({"size": 16, "blur": -1}, "blur and noise must be 0 or more"),
        ({"size": 16, "noise": -0.1}, "blur and noise must be 0 or more"),
        ({"size": 16, "jpeg": 0}, "JPEG quality must lie in 1 to 100, got 0"),
        ({"size": 16, "jpeg": 101}, "JPEG quality must lie in 1 to 100, got 101"),
    ],
)
def test_bad_settings(arguments, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        Degradation(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "resolution 16 is above the source's 8"),
        (torch.zeros(1, 3, 32, 24, dtype=torch.uint8), "square images, got 24×32"),
        (torch.zeros(1, 3, 32, 32), "uint8"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), "uint8"),
    ],
)
def test_bad_images(images, complaint):
    with pytest.raises(HorkdError, match=complaint):
        Degradation(16)(images)
