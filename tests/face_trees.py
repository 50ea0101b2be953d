"""Trees of photos in the layouts of sets of faces: patterns that belong to people, with noise."""

from pathlib import Path

import numpy as np
from PIL import Image

FOLDS, PEOPLE, PHOTOS = 10, 6, 3  # of each fold, of each person


def name_of(fold: int, person: int) -> str:
    return f"P{fold}_{person}"


def face(fold: int, person: int, photo: int, side: int = 40) -> np.ndarray:
    """A pattern that belongs to the person, with noise that belongs to the photo."""
    own = np.random.default_rng([fold, person]).integers(0, 256, (5, 5, 3))
    noise = np.random.default_rng([fold, person, photo]).integers(-40, 41, (side, side, 3))
    pattern = np.kron(own, np.ones((side // 5, side // 5, 1)))
    return np.clip(pattern + noise, 0, 255).astype(np.uint8)


def lfw_tree(root: Path, side: int = 40) -> Path:
    """Ten folds of six people with three photos each; two pairs of either kind in a fold."""
    home = root / "lfw"
    for fold in range(FOLDS):
        for person in range(PEOPLE):
            name = name_of(fold, person)
            folder = home / "lfw-deepfunneled" / name
            folder.mkdir(parents=True)
            for photo in range(1, PHOTOS + 1):
                pixels = Image.fromarray(face(fold, person, photo, side))
                pixels.save(folder / f"{name}_{photo:04d}.jpg", quality=95)
    pairs, people = [f"{FOLDS}\t2"], [str(FOLDS)]
    for fold in range(FOLDS):
        names = [name_of(fold, person) for person in range(PEOPLE)]
        pairs += pairs_of(names)
        people += [str(PEOPLE), *(f"{name}\t{PHOTOS}" for name in names)]
    (home / "pairs.txt").write_text("\n".join(pairs) + "\n")
    (home / "people.txt").write_text("\n".join(people) + "\n")
    for part, folds in (("DevTrain", range(6)), ("DevTest", range(7, 10))):  # fold 6 in neither
        names = [name_of(fold, person) for fold in folds for person in range(PEOPLE)]
        lines = [str(len(names)), *(f"{name}\t{PHOTOS}" for name in names)]
        (home / f"people{part}.txt").write_text("\n".join(lines) + "\n")
        (home / f"pairs{part}.txt").write_text("\n".join(["2", *pairs_of(names)]) + "\n")
    return root


def pairs_of(names: list[str]) -> list[str]:
    a, b, c, d = names[:4]
    return [f"{a}\t1\t2", f"{b}\t3\t1", f"{a}\t1\t{c}\t2", f"{b}\t2\t{d}\t3"]


def casia_tree(root: Path) -> Path:
    for person in range(5):
        folder = root / "casia" / f"{person:07d}"
        folder.mkdir(parents=True)
        for photo in range(4):
            Image.fromarray(face(20, person, photo)).save(folder / f"{photo:03d}.jpg")
    return root
