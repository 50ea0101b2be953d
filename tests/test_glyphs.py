import warnings
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torchvision.transforms.functional import pil_to_tensor

from horkd import storage
from horkd.data import glyphs
from horkd.data.glyphs import CHARACTERS, FACES, SIZE, UNSEEN_CHARACTERS, load_glyphs, render
from horkd.errors import HorkdError

LOOK_ALIKE = 0.97  # correlation of two masks; the closest accepted pair is H and Π with 0.961
SPLITS = ("train", "validation", "test", "unseen")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return load_glyphs(per_class=2, seed=0, cache=tmp_path_factory.mktemp("glyphs"))


def assert_same(a, b):
    for split in SPLITS:
        assert torch.equal(getattr(a, split).images, getattr(b, split).images)
        assert torch.equal(getattr(a, split).labels, getattr(b, split).labels)
    assert (a.mean, a.std) == (b.mean, b.std)


def unit(masks):
    """Masks at the size of the images, such that products of them are correlations."""
    flat = F.avg_pool2d(masks.float(), 2).flatten(-2)
    return F.normalize(flat - flat.mean(dim=-1, keepdim=True), dim=-1)


def as_rows(image_set):
    return {image.numpy().tobytes() for image in image_set.images}


# The characters


def test_characters_are_distinct():
    assert (len(CHARACTERS), len(UNSEEN_CHARACTERS)) == (100, 40)
    assert len(set(CHARACTERS + UNSEEN_CHARACTERS)) == 140


def test_every_face_has_every_character():
    for face in FACES:
        charmap = FT2Font(f"{get_data_path()}/fonts/ttf/{face}").get_charmap()
        missing = [c for c in CHARACTERS + UNSEEN_CHARACTERS if not charmap.get(ord(c))]
        assert not missing, face


def extent(filled):
    """First and last filled pixel of each row of (..., 64)."""
    return filled.byte().argmax(dim=-1), 63 - filled.flip(-1).byte().argmax(dim=-1)


def test_masks_are_filled_centred_and_of_one_size():
    masks = glyphs.glyph_masks()
    assert masks.shape == (12, 140, 64, 64)
    ink = masks > 60
    assert 0.01 < ink.float().mean(dim=(2, 3)).min() < ink.float().mean(dim=(2, 3)).max() < 0.5
    (top, bottom), (left, right) = extent(ink.any(dim=3)), extent(ink.any(dim=2))
    for first, last in ((top, bottom), (left, right)):
        assert ((first + last - 63).abs() <= 3).all()  # centred within 1.5 pixels
    longer = torch.maximum(bottom - top, right - left) + 1
    assert 46 <= longer.min() <= longer.max() <= 50


def test_no_two_characters_look_alike_in_any_face():
    masks = unit(glyphs.glyph_masks())
    for face, similarity in zip(FACES, masks @ masks.mT, strict=True):
        similarity.fill_diagonal_(0)
        first, second = divmod(int(similarity.argmax()), 140)
        known = CHARACTERS + UNSEEN_CHARACTERS
        assert similarity.max() < LOOK_ALIKE, (face, known[first], known[second])


# What is drawn


def test_layout_and_balance(small):
    assert small.name == "glyphs"
    assert not small.flip
    assert small.num_classes == 100
    expected = {"train": 2, "validation": 5, "test": 10, "unseen": 10}
    for split, per_class in expected.items():
        part = getattr(small, split)
        assert part.classes == (UNSEEN_CHARACTERS if split == "unseen" else CHARACTERS)
        assert set(Counter(part.labels.tolist()).values()) == {per_class}
        assert part.images.shape == (per_class * len(part.classes), 3, SIZE, SIZE)


def test_split_sizes_grow_with_per_class():
    counts = {split: count for split, (_, count) in glyphs._plan(100).items()}
    assert counts == {"train": 100, "validation": 20, "test": 40, "unseen": 40}


def test_statistics_are_those_of_the_training_images(small):
    pixels = small.train.images.double() / 255
    assert small.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist(), abs=1e-9)
    std = pixels.std(dim=(0, 2, 3), correction=0)
    assert small.std == pytest.approx(std.tolist(), abs=1e-9)


def test_masks_show_their_characters():
    known = CHARACTERS + UNSEEN_CHARACTERS
    for i in (0, 5, 10):  # one of each family
        font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{FACES[i]}", 200)
        drawn = []
        for character in known:
            page = Image.new("L", (500, 500))
            ImageDraw.Draw(page).text((100, 100), character, fill=255, font=font)
            crop = page.crop(page.getbbox())
            crop = ImageOps.pad(crop, (48, 48))  # centred, proportions kept
            drawn.append(pil_to_tensor(ImageOps.expand(crop, border=8)))
        nearest = (unit(torch.cat(drawn)) @ unit(glyphs.glyph_masks()[i]).T).argmax(dim=1)
        assert [known[k] for k in nearest] == list(known)


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_labels_belong_to_their_characters(split):
    """Without the mask of one character, the images of its label lose their character.

    Of the others only those change that had it at their border.
    """
    characters = CHARACTERS if split == "train" else UNSEEN_CHARACTERS
    blank = glyphs.glyph_masks().clone()
    gone = characters[7]
    blank[:, (CHARACTERS + UNSEEN_CHARACTERS).index(gone)] = 0
    before = render(characters, 3, 0, split)
    after = render(characters, 3, 0, split, blank)
    changed = (before.images != after.images).flatten(1).any(dim=1)
    assert changed[before.labels == 7].all()
    assert before.classes[7] == gone
    others = int(changed.sum()) - 3
    assert others < 0.05 * len(changed) if split == "train" else others == 0


def test_characters_stand_out_from_their_backgrounds():
    index = torch.arange(100).repeat(4)
    generator = glyphs._generator(3, "train", 0)
    coverage = glyphs._coverage(index, generator)
    background, colours = glyphs._colours(len(index), generator)
    contrast = (colours[:, 0] - background).norm(dim=1)
    assert contrast.min() >= glyphs.MIN_CONTRAST
    assert contrast.max() > 2 * glyphs.MIN_CONTRAST  # not all alike
    images = glyphs._paint(coverage, background, colours, generator).clamp(0, 1)
    inside = coverage[:, :1]
    outside = (coverage.amax(dim=1, keepdim=True) == 0).float()
    assert inside.sum(dim=(1, 2, 3)).min() > 5  # pixels
    ink, paper = (
        (images * area).sum(dim=(2, 3)) / area.sum(dim=(2, 3)) for area in (inside, outside)
    )
    assert (ink - paper).norm(dim=1).quantile(0.02) > glyphs.MIN_CONTRAST / 3


def test_the_character_stays_inside_the_image():
    index = torch.arange(100).repeat(4)
    layers = glyphs._coverage(index, glyphs._generator(5, "test", 0))
    frame = torch.ones(SIZE, SIZE)
    frame[1:-1, 1:-1] = 0
    on_frame = (layers * frame).sum(dim=(2, 3)) / layers.sum(dim=(2, 3)).clamp(min=1)
    assert on_frame[:, 0].mean() < 0.01
    assert on_frame[:, 1:].mean() > 0.05  # others reach over the border


def test_border_shows_no_unseen_character():
    blank = glyphs.glyph_masks().clone()
    blank[:, 100:] = 0
    expected = render(CHARACTERS, 2, 0, "train").images
    assert torch.equal(render(CHARACTERS, 2, 0, "train", blank).images, expected)
    unseen = render(UNSEEN_CHARACTERS, 1, 0, "unseen", blank).images
    assert not torch.equal(render(UNSEEN_CHARACTERS, 1, 0, "unseen").images, unseen)


# Randomness


def test_same_seed_same_bytes_with_any_number_of_threads(small):
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            again = render(CHARACTERS, 2, 0, "train")
            assert torch.equal(again.images, small.train.images)
    finally:
        torch.set_num_threads(threads)


def test_the_global_seed_does_not_matter(small):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        assert torch.equal(render(CHARACTERS, 2, 0, "train").images, small.train.images)


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    render(CHARACTERS, 1, 0, "train")
    assert torch.equal(torch.get_rng_state(), before)


def test_other_seeds_and_splits_give_other_images(small):
    first = as_rows(small.train)
    assert not first & as_rows(render(CHARACTERS, 2, 1, "train"))
    assert not first & as_rows(render(CHARACTERS, 2, -1, "train"))


def test_splits_are_disjoint(small):
    rows = [as_rows(getattr(small, split)) for split in SPLITS]
    sizes = [len(getattr(small, split)) for split in SPLITS]
    assert [len(r) for r in rows] == sizes  # no image twice
    assert len(set.union(*rows)) == sum(sizes)


def test_a_smaller_set_is_a_prefix():
    large = render(CHARACTERS, 4, 7, "train")
    part = render(CHARACTERS, 2, 7, "train")
    assert torch.equal(large.images[:200], part.images)
    assert torch.equal(large.labels[:200], part.labels)


# The cache


def test_cache_is_read_not_redrawn(tmp_path, small):
    folder = tmp_path / "new" / "folder"
    drawn = load_glyphs(1, 0, folder)
    (path,) = folder.iterdir()
    kept = path.stat()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = load_glyphs(1, 0, folder)
    assert_same(drawn, read)
    assert path.stat() == kept
    images = storage.load_tensors(path)[0]  # what is in the file is what is read
    storage.save_tensors(path, {name: 255 - x for name, x in images.items()}, {})
    assert torch.equal(load_glyphs(1, 0, folder).train.images, 255 - drawn.train.images)


def test_the_file_is_in_the_default_folder_and_named_after_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path))
    for per_class, seed in ((1, 0), (1, 1), (2, 0)):
        load_glyphs(per_class, seed)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"glyphs-{what}-v{glyphs.VERSION}.safetensors" for what in ("1-s0", "1-s1", "2-s0")
    }


# Bad input


@pytest.mark.parametrize("per_class", [0, -1, 1.5, "3", None, True])
def test_bad_per_class(per_class, tmp_path):
    with pytest.raises(HorkdError, match="per_class"):
        load_glyphs(per_class, cache=tmp_path)
    with pytest.raises(HorkdError, match="per_class"):
        render(CHARACTERS, per_class, 0, "train")
    assert not list(tmp_path.iterdir())


def test_bad_characters():
    with pytest.raises(HorkdError, match="no such character in the embedded set: 漢"):
        render(("A", "漢"), 1, 0, "train")
    with pytest.raises(HorkdError, match="distinct"):
        render(("A", "A"), 1, 0, "train")
    with pytest.raises(HorkdError, match="at least one"):
        render((), 1, 0, "train")


def test_missing_fonts(tmp_path, monkeypatch):
    monkeypatch.setattr(glyphs, "fonts", lambda: tmp_path)
    with pytest.raises(HorkdError, match="reinstall matplotlib"):
        glyphs.glyph_masks.__wrapped__()
