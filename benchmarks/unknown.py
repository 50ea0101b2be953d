"""Which score says best that a teacher is shown something unlike anything it knows.

    python benchmarks/unknown.py [--data glyphs] [--model FILE]

Development sets choose the score, test sets are reported. Needs CIFAR-100 and LFW in HORKD_DATA.
Writes reports/benchmarks/unknown.json and .md, or unknown-glyphs: 6 minutes on a core (glyphs 2).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from horkd import paths, storage
from horkd.data import load_dataset
from horkd.data.glyphs import FACES
from horkd.degradation import Degradation, resize
from horkd.losses import class_centers
from horkd.machine import describe_machine
from horkd.networks.network import Output, load_network
from horkd.predict import predict

N = 900  # images in each set
TOLERANCE = 2.0  # points of the development mean that a simpler score may lack
REPORTS = {"cifar100": "cpu-cifar100", "glyphs": "quick-glyphs"}  # their teachers by default
DEVELOPMENT = ("noise", "blurred noise", "colours", "gradients", "glyphs")  # choose the score
LIKE = {  # test sets that are not altogether new, left out of the test mean
    "cifar100": {"faces": "man to baby known", "inverted": "known", "unseen glyphs": "as dev"},
    "glyphs": {"text pages": "same letters", "unseen glyphs": "drawn as known ones"},
}


def scorer(train: Output, labels: Tensor) -> Callable[[Output], dict[str, Tensor]]:
    """All scores of outputs, the simplest first; higher is more unknown."""
    x, classes = train.features.double(), train.logits.shape[1]
    u = class_centers(x, labels, classes)
    apart = x - u[labels]
    spread = class_centers(apart.square().sum(1, True), labels, classes).sqrt()[:, 0]
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(x))
    kept = values > 1e-6 * values.max()
    whiten = vectors[:, kept] / values[kept].sqrt()
    unit, middle = F.normalize(train.features), u.mean(0)

    def scores(out: Output) -> dict[str, Tensor]:
        z, f = out.logits.double(), out.features.double()
        distance, norm, best = torch.cdist(f, u), f.norm(dim=1), z.max(1).values
        cosine = F.normalize(f) @ F.normalize(u).T
        centred = F.normalize(f - middle) @ F.normalize(u - middle).T
        near = [(F.normalize(x) @ unit.T).topk(50).values[:, -1] for x in out.features.split(500)]
        return {
            "max softmax: −max softmax(z)": -z.softmax(1).max(1).values,
            "max logit: −max z": -best,
            "energy: −log Σ exp z": -z.logsumexp(1),
            "standardised logit: −(max z − mean z) / std z": (z.mean(1) - best) / z.std(1),
            "norm: −‖f‖": -norm,
            "cosine: −max cos(f, u)": -cosine.max(1).values,
            "distance: min ‖f − u‖": distance.min(1).values,
            "distance / norm: min ‖f − u‖ / ‖f‖": distance.min(1).values / norm,
            "centred cosine: −max cos(f − ū, u − ū)": -centred.max(1).values,
            "distance / spread: min ‖f − u‖ / s": (distance / spread).min(1).values,
            "Mahalanobis": torch.cdist(f @ whiten, u @ whiten).min(1).values,
            "(50th training neighbour: −cosine)": -torch.cat(near).double(),
        }

    return scores


def image_sets(data: str, rng: np.random.Generator) -> dict[str, Tensor]:
    """Noise is blurred by 1, 2 or 4 pixels; shuffled are blocks of 8×8."""
    parts = enumerate(torch.from_numpy(rng.random((3, N // 3, 3, 32, 32))))
    blurred = torch.cat([TF.gaussian_blur(x, [25, 25], [2.0**i] * 2) for i, x in parts])
    sets = {
        "noise": torch.from_numpy(rng.random((N, 3, 32, 32))),
        "blurred noise": _stretched(blurred),
        "colours": _colours(rng).expand(N, 3, 32, 32),
        "gradients": torch.lerp(_colours(rng), _colours(rng), _stretched(_positions(rng)[0])),
        "stripes": torch.where(_stripes(rng), _colours(rng), _colours(rng)),
    }
    sets = {name: (255 * x).round().to(torch.uint8) for name, x in sets.items()}
    sets["text pages"] = resize(torch.stack([_page(rng) for _ in range(N)]), 32)
    sets["plots"] = resize(_plots(rng), 32)
    sets["faces"] = resize(_some(load_dataset("lfw").test.images, rng)[:, :, 4:-4, 4:-4], 32)
    sets["unseen glyphs"] = _some(load_dataset("glyphs").unseen.images, rng)
    if data == "cifar100":
        sets["glyphs"] = _some(load_dataset("glyphs").train.images, rng)
        sets["inverted"] = 255 - _some(load_dataset("cifar100").test.images, rng)
        blocks = F.unfold(255 - sets["inverted"].double(), 8, stride=8)  # (N, 192, 16)
        order = torch.from_numpy(rng.permuted(np.tile(np.arange(16), (N, 1)), axis=1))
        blocks = blocks.gather(2, order[:, None].expand_as(blocks))
        sets["shuffled"] = F.fold(blocks, 32, 8, stride=8).to(torch.uint8)
    return sets


def _some(images: Tensor, rng: np.random.Generator) -> Tensor:
    return images[torch.from_numpy(rng.permutation(len(images))[:N])]


def _colours(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random((N, 3, 1, 1)))


def _stretched(x: Tensor) -> Tensor:
    x = x - x.amin((1, 2, 3), True)
    return x / x.amax((1, 2, 3), True)


def _positions(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(N, 1, 32, 32) each: position in pixels along a random direction, and across it."""
    angle = torch.from_numpy(rng.uniform(0, 2 * np.pi, (N, 1, 1, 1)))
    y, x = torch.meshgrid(2 * [torch.arange(32.0).double()], indexing="ij")
    return angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x


def _stripes(rng: np.random.Generator) -> Tensor:
    """Stripes and checkerboards by turns, a period of 3 to 16 pixels: where the one colour is."""
    period, phase = torch.from_numpy(rng.uniform(3, 16, (2, N, 1, 1, 1)))
    odd, across = ((x + phase) / period % 1 < 0.5 for x in _positions(rng))
    odd[::2] ^= across[::2]
    return odd


def _page(rng: np.random.Generator) -> Tensor:
    """uint8 (3, 256, 256): lines of letters in one of the DejaVu faces, a third in colour."""
    size, folder = int(rng.integers(10, 49)), matplotlib.get_data_path() + "/fonts/ttf/"
    font = ImageFont.truetype(folder + rng.choice(FACES), size)
    two = map(tuple, rng.integers(0, 256, (2, 3)).tolist())
    ink, paper = two if rng.random() < 1 / 3 else ((20, 20, 20), (245, 245, 245))
    page = Image.new("RGB", (256, 256), paper)
    for top in range(int(rng.integers(0, 16)), 256, round(1.3 * size)):
        line = "".join(rng.choice(list("etaoinshrdlu    "), 80))
        ImageDraw.Draw(page).text((8, top), line, fill=ink, font=font)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)


def _plots(rng: np.random.Generator) -> Tensor:
    """uint8 (N, 3, 256, 256): line and bar plots with axes."""
    canvas, images = FigureCanvasAgg(Figure(figsize=(4, 4), dpi=64)), []
    for i in range(N):
        canvas.figure.clf()
        axes = canvas.figure.subplots()
        for shift, *colour in rng.random((rng.integers(1, 4), 4)):
            if i % 2:
                axes.bar(np.arange(8) + shift / 2, rng.random(8), 0.4, color=colour)
            else:
                axes.plot(rng.standard_normal(40).cumsum(), color=colour, lw=2)
        axes.set(title="title", xlabel="x", ylabel="y")
        canvas.draw()
        images.append(torch.from_numpy(np.array(canvas.buffer_rgba())[:, :, :3]))
    return torch.stack(images).permute(0, 3, 1, 2)


def auroc(unknown: Tensor, known: Tensor) -> float:
    """How often an unknown image scores above a known one; ties count half."""
    places = [torch.searchsorted(known.sort().values, unknown, right=r) for r in (False, True)]
    return (sum(places).double().mean() / 2 / len(known)).item()


def main() -> None:
    """Measure every score on every set, and choose one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=REPORTS, default="cifar100")
    parser.add_argument("--model", type=Path, help="a teacher at full resolution")
    asked, start = parser.parse_args(), time.perf_counter()
    paths.settle()
    networks = paths.published_dir() / REPORTS[asked.data] / "models"
    network = load_network(asked.model or networks / "teacher.safetensors")
    data, full = load_dataset(asked.data), Degradation(32)
    splits = data.train, data.validation, data.test
    train, validation, test = (predict(network, s.images, data, full) for s in splits)
    score = scorer(train, data.train.labels)
    limits = {k: s.quantile(0.95).item() for k, s in score(validation).items()}
    known, right = score(test), 100 * (test.logits.argmax(1) == data.test.labels).double()
    images = image_sets(asked.data, np.random.default_rng(0))
    names = sorted(images, key=lambda s: s not in DEVELOPMENT)
    found = {s: score(predict(network, images[s], data, full)) for s in names}
    development = [s for s in names if s in DEVELOPMENT]
    new = [s for s in names if s not in development and s not in LIKE[asked.data]]
    rows = {}
    for k, limit in limits.items():
        flagged = {s: 100 * (x[k] > limit).double().mean().item() for s, x in found.items()}
        rows[k] = {
            "threshold": limit,
            "test": 100 * (known[k] > limit).double().mean().item(),
            "dev_mean": sum(flagged[s] for s in development) / len(development),
            "test_mean": sum(flagged[s] for s in new) / len(new),
            "flagged": flagged,
            "auroc": {s: auroc(x[k], known[k]) for s, x in found.items()},
            "right_of_flagged": right[known[k] > limit].mean().item(),
        }
    means = {k: row["dev_mean"] for k, row in rows.items() if k[0] != "("}
    content = {
        "data": asked.data,
        "model": network.spec.name,
        "chosen": next(k for k, m in means.items() if m >= max(means.values()) - TOLERANCE),
        "best": max(means, key=means.get),
        "scores": rows,
        "development": development,
        "known_images": [len(data.validation), len(data.test)],
        "test_top1": right.mean().item(),
        "seconds": round(time.perf_counter() - start, 1),
        "machine": describe_machine(torch.device("cpu")),
    }
    name = "unknown-glyphs" if asked.data == "glyphs" else "unknown"
    folder = paths.reports_dir() / "benchmarks"
    storage.save_json(folder / f"{name}.json", content)
    storage.write_text(folder / f"{name}.md", page(content))


def page(found: dict) -> str:
    """The record as a page: how to read it, what the hint cannot do, the table."""
    rows, like, row = found["scores"], LIKE[found["data"]], found["scores"][found["chosen"]]
    flagged, dev = row["flagged"], dict.fromkeys(found["development"], "dev")
    kinds = dict.fromkeys(flagged, "test") | dict.fromkeys(like, "like") | dev
    weakest = min(set(flagged) - set(dev), key=flagged.get)
    head = ["score", "threshold", "test images", "dev mean", "test mean"]
    lines = [head + [f"{s} ({kinds[s]})" for s in flagged], [":--", *["--:"] * (4 + len(flagged))]]
    for k, r in rows.items():
        cells = [f"{r[c]:.3g}" for c in ("threshold", "test", "dev_mean", "test_mean")]
        cells.insert(0, f"**{k}**" if r is row else k)
        lines.append(cells + [f"{r['flagged'][s]:.0f} ({r['auroc'][s]:.2f})" for s in flagged])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    n, alike = found["known_images"], "; ".join(f"{s} ({why})" for s, why in like.items())
    return f"""# Unlike anything it knows: scores of a {found["model"]} for {found["data"]}

Percent flagged (AUROC against test images). Thresholds flag 5 % of {n[0]:,} validation
images, so about 5 % of the {n[1]:,} test images; other sets have {N}, ± 3 points at most. *Dev*
sets choose the simplest score, from the top, within {TOLERANCE:g} points of the best mean; *test*
sets choose nothing. Left out of their mean are *like* ones: {alike}.
z logits, f feature, u nearest class centre, ū mean centre, s a class's root mean square distance;
Mahalanobis is by the covariance within classes. Exact thresholds are in the record.

The hint cannot say what an image is, nor vouch for one: of {weakest} only {flagged[weakest]:.0f} %
are flagged. One known image in twenty is flagged too, of which the network names
{row["right_of_flagged"]:.0f} % rightly (of all test images {found["test_top1"]:.0f} %).

{table}
"""


if __name__ == "__main__":
    main()
