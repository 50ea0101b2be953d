"""What the page and its interface answer: words, tables and figures from a bench and a picture."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from scipy.stats import spearmanr
from torch import Tensor

from app import drawing
from app.bench import Answer, Bench, Model, divergence
from app.faces import WARNING, FaceBench, Verdict
from app.gallery import Gallery
from app.pictures import Picture
from app.reference import FLAGGED, Reference, familiarity
from horkd.lab.store import unlike

Answers = Mapping[str, Mapping[int, Answer]]


LIMITS = """### What they cannot do

The networks know only the classes of their data set, are small and were trained for minutes: \
expect errors at any resolution. Probabilities are not calibrated. The hint “none of these” \
notices pictures that do not look like photos of the kind they know (stripes, plots, pages of \
text) rather than photos of unknown things, and doubts one known picture in twenty: no hint proves \
nothing.

### What becomes of a picture

It stays on the machine that runs this page: nothing is sent elsewhere, nothing is counted, and \
within an hour it is deleted and forgotten. Whoever runs the page can read it until then."""


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A bench with what is known of it.

    Attributes:
        title: for the choice of models.
        bench: the networks.
        reference: what was measured of them, or None.
        source: where they were read from, as the user named it.
    """

    title: str
    bench: Bench
    reference: Reference | None
    source: str

    def nearest_size(self, size: object) -> int:
        """The resolution looked at that is nearest to a number of pixels."""
        number = float(size)  # type: ignore[arg-type]
        if isinstance(size, bool) or not math.isfinite(number):
            raise ValueError(size)
        number = min(max(number, self.bench.sizes[0]), self.bench.full)
        return min(self.bench.sizes, key=lambda s: abs(s - number))


def role_title(role: str, answer: Answer, size: int) -> str:
    """What stands above a role's answer, with the pixels it is fed."""
    fed = f"{size} px"
    if answer.fed > size:
        fed += f", enlarged to {answer.fed}"
    elif answer.fed < size:
        fed += f", reduced to {answer.fed}"
    student = "Assistant" if answer.model.size == answer.model.full else "Student"
    return {
        "teacher": f"Teacher, {answer.fed} px (full resolution)",
        "teacher small": f"Teacher fed {fed}",
        "student": f"{student} fed {fed}",
        "alone": f"Undistilled, fed {fed}",
    }[role]


def unfamiliar(exhibit: Exhibit, answers: Answers) -> bool | None:
    """Whether a picture is unlike anything the teacher knows; None if that was not measured."""
    if exhibit.reference is None:
        return None
    whole = answers["teacher"][exhibit.bench.full]
    centers = exhibit.reference.centers[whole.model.id]
    return bool(familiarity(whole.features[None], centers) < exhibit.reference.limit)


def doubts(exhibit: Exhibit, answers: Answers, size: int) -> list[str]:
    """What a visitor must know before believing the answers."""
    found = []
    if unfamiliar(exhibit, answers):
        found.append(
            "None of these? To the teacher the picture is stranger than "
            f"{100 - 100 * FLAGGED:.0f} of 100 of the kind it was trained on. It may show nothing "
            "that the networks know, and then their answers mean nothing."
        )
    asked = dict.fromkeys(answers[role][size].model for role in exhibit.bench.roles())
    return found + [f"{model.name}: {model.doubt}" for model in asked if model.doubt]


def verdict(exhibit: Exhibit, answers: Answers, size: int) -> str:
    """Agreement and divergence in words, as Markdown."""
    whole = answers["teacher"][size]
    name, sure = whole.top(1)[0]
    lines = [f"At full resolution the teacher says **{_md(name)}** ({sure:.0%}).", ""]
    assisted = answers["student"][size].model.size == exhibit.bench.full
    student = "The assistant" if assisted else "The student"
    who = {
        "teacher small": "The teacher",
        "student": student,
        "alone": "The same network undistilled",
    }
    apart = []
    for role in exhibit.bench.roles()[1:]:
        answer = answers[role][size]
        own, p = answer.top(1)[0]
        says = "the same" if own == name else f"**{_md(own)}**"
        lines.append(f"- {who[role]}, fed {size} px, says {says} ({p:.0%})")
        if exhibit.reference:
            same = exhibit.reference.same[role][size]
            lines[-1] += f"; on {same:.0f} % of test images it agrees with the teacher"
        apart.append(_apart(exhibit, answers, role, size))
        lines[-1] += "."
    return "\n".join([*lines, "", f"KL from the teacher's answer, in nats: {', '.join(apart)}."])


def _apart(exhibit: Exhibit, answers: Answers, role: str, size: int) -> str:
    """KL from the teacher and what is usual."""
    kl = divergence(answers["teacher"][size], answers[role][size])
    name = {"teacher small": "itself", "student": "student", "alone": "undistilled"}[role]
    if exhibit.reference is None:
        return f"{name} {kl:.2f}"
    return (
        f"{name} {kl:.2f} (median of test images {exhibit.reference.divergence[role][size][4]:.2f})"
    )


def _md(text: str) -> str:
    """A name as Markdown shows it in one line, whatever is in it."""
    return "".join(
        f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>~&:$" else c for c in " ".join(text.split())
    )


def curves(exhibit: Exhibit, answers: Answers, size: int) -> str:
    """This picture's curves and, if they were measured, those of the test images."""
    bench, roles = exhibit.bench, exhibit.bench.roles()
    name = answers["teacher"][size].top(1)[0][0]
    trained = {"student": tuple(bench.students), "alone": tuple(bench.alone)}
    mine = [
        drawing.Curve(
            role,
            {s: 100 * answers[role][s].of(name) for s in bench.sizes},
            trained.get(role, ()),
        )
        for role in roles
    ]
    figures = [
        drawing.curves(f"This picture: probability of “{name}”", "probability (%)", mine, size)
    ]
    if exhibit.reference:
        usual = exhibit.reference.accuracy
        lines = [
            drawing.Curve(
                role,
                dict.fromkeys(bench.sizes, usual[role][bench.full])
                if role == "teacher"
                else usual[role],
                trained.get(role, ()),
            )
            for role in roles
        ]
        title = f"All {exhibit.reference.n:,} test images: right answers"
        figures.append(drawing.curves(title, "top-1 (%)", lines, size))
    more = (
        "Dots: resolutions that a network was trained at. Between them the next smaller one is "
        "asked, and fed the image reduced once more."
    )
    if bench.full in bench.students:
        more += f" At {bench.full} pixels the student is the assistant."
    return drawing.page(f'<div class="pair">{"".join(figures)}</div>', drawing.legend(roles, more))


def costs(exhibit: Exhibit, answers: Answers, size: int) -> str:
    """A Markdown table of what the networks cost."""
    roles = [role for role in ("teacher", "student", "alone") if role in exhibit.bench.roles()]
    models = [answers[role][size].model for role in roles]
    each = [model.cost for model in models]
    rows = {
        "network": [_md(m.name) for m in models],
        "fed": [f"{m.input} px" for m in models],
        "parameters": [f"{c['parameters'] / 1e6:.2f} M" for c in each],
        "MACs": [f"{c['macs'] / 1e6:.1f} M" for c in each],
        "time here": [f"{c['milliseconds']:.1f} ms" for c in each],
        "file": [f"{c['bytes'] / 1e6:.2f} MB" for c in each],
    }
    names = {"teacher": "teacher", "student": "student", "alone": "undistilled"}
    lines = [
        "| one image | " + " | ".join(names[role] for role in roles) + " |",
        "|---|" + "---:|" * len(roles),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()),
    ]
    return (
        "\n".join(lines) + "\n\nMACs: multiply-accumulates. Time: median of 15, on one CPU thread."
    )


def relations(exhibit: Exhibit, gallery: Gallery | None, answers: Answers, size: int) -> str:
    """Nearest training images and distances to class centres, as HTML.

    Args:
        exhibit: the models.
        gallery: training images, or None if they are not at hand.
        answers: of the picture.
        size: resolution in pixels.
    """
    centres = _centre_distances(exhibit, answers, size)
    if gallery is None:
        return drawing.page(f"<p>{missing_data(exhibit)}</p>", *centres)
    parts = []
    for role in [role for role in ("teacher", "student", "alone") if role in answers]:
        answer = answers[role][size]
        items = [
            (n.image, f"training image: {n.label}", f"{n.label}, {n.distance:.2f}")
            for n in gallery.neighbours(answer)
        ]
        parts.append(drawing.tiles(f"{role_title(role, answer, size)}: nearest", items))
    parts.append(
        f"<p>Among {len(gallery.train):,} training images. Numbers are distances of features, the "
        "mean over all these images being 1.</p>"
    )
    return drawing.page(*parts, *centres)


def _centre_distances(exhibit: Exhibit, answers: Answers, size: int) -> list[str]:
    """Distances to class centres in teacher and student, side by side (order C of the paper)."""
    if exhibit.reference is None:
        return ["<p>Class centres were not measured: run python -m app.reference FOLDER.</p>"]
    rows = {}
    for role in ("teacher", "student"):
        answer = answers[role][size]
        d = torch.cdist(answer.features[None], exhibit.reference.centers[answer.model.id])[0]
        rows[role] = d / d.mean()
    chosen = _nearest_of_both(rows["teacher"], rows["student"])
    names = [exhibit.bench.classes[i] for i in chosen]
    figure = drawing.distances(names, {r: [float(d[i]) for i in chosen] for r, d in rows.items()})
    alike = float(spearmanr(rows["teacher"].numpy(), rows["student"].numpy()).statistic)
    return [
        "<h4>Distances to the class centres</h4>",
        drawing.legend(("teacher", "student")),
        f'<div style="max-width: 520px">{figure}</div>',
        f"<p>Over all {len(exhibit.bench.classes)} classes the student ranks the distances as the "
        f"teacher does with a rank correlation of {alike:.2f}. Order C of the loss teaches just "
        "these distances.</p>",
    ]


def _nearest_of_both(teacher: Tensor, student: Tensor, count: int = 10) -> list[int]:
    """Classes that are near for either, the teacher's nearest first."""
    count = min(count, len(teacher))
    near = [t for pair in zip(teacher.argsort(), student.argsort(), strict=True) for t in pair]
    chosen = list(dict.fromkeys(int(i) for i in near))[:count]
    return sorted(chosen, key=lambda i: float(teacher[i]))


def as_json(exhibit: Exhibit, picture: Picture, answers: Answers, size: int) -> dict:
    """The answers as plain values: what `/compare` returns."""
    models = {}
    for role in exhibit.bench.roles():
        answer = answers[role][size]
        models[role.replace(" ", "_")] = {
            "network": answer.model.name,
            "fed_px": answer.fed,
            "top5": [{"label": n, "probability": round(p, 6)} for n, p in answer.top()],
            "same_answer_as_teacher": answer.top(1)[0][0] == answers["teacher"][size].top(1)[0][0],
            "kl_from_teacher_nats": round(divergence(answers["teacher"][size], answer), 6),
        }
    return {
        "models": exhibit.title,
        "resolution_px": size,
        "answers": models,
        "unfamiliar": unfamiliar(exhibit, answers),
        "notes": [*doubts(exhibit, answers, size), *picture.notes],
    }


def missing_data(exhibit: Exhibit) -> str:
    """What to say where images of the data set would be."""
    return (
        f"Images of {escape(exhibit.bench.data)} are not on this machine, so none can be shown "
        "here: put them where HORKD_DATA points (README) and start the demo again. It downloads "
        "nothing by itself."
    )


def pair(gallery: Gallery, index: int, size: int) -> tuple[Tensor, Tensor, str, list[str]]:
    """A test image, what the student sees of it, its class, and who says what."""
    bench, image = gallery.bench, gallery.test.images[index]
    said = []
    for role, name in (
        ("teacher", "teacher"),
        ("teacher small", f"teacher fed {size} px"),
        ("student", "student"),
    ):
        classes, sure = gallery.answers(role, size)
        said.append(f"{name}: {bench.classes[classes[index]]} {sure[index]:.0%}")
    name = bench.classes[gallery.test.labels[index]]
    return image, bench.reduced(image[None], size)[0], name, said


def count(gallery: Gallery, found: int, shown: int, of_class: bool) -> str:
    """How many images there are, in words."""
    n = len(gallery.test)
    text = f"{found:,} of {n:,} test images" + (" (of one class)" if of_class else "")
    if not of_class:
        text += f" ({found / n:.1%})"
    return text + (f"; those the student is surest of first, {shown} shown." if found else ".")


def verdict_on_faces(found: Verdict, seen: Sequence[Tensor], size: int) -> str:
    """One person or two, with the error rates and what the network saw, as HTML."""
    if found.same is None:
        said = "<h4>No threshold was measured for these networks</h4>"
        rates = "The number alone says nothing: run python -m app.reference FOLDER."
    else:
        said = (
            f"<h4>{'One person' if found.same else 'Two persons'}, says {escape(found.model)}</h4>"
        )
        rates = (
            f"At this threshold {found.false_accepts:.1f} % of {found.n} pairs of two people were "
            f"taken for one, and {found.false_rejects:.1f} % of {found.n} pairs of one person for "
            "two: photos of LFW at this resolution, framed as there, of people the network had "
            "never seen. It compares whatever it is given, face or not."
        )
    alts = ("What the network sees of the first photo", "and of the second photo")
    images = "".join(
        f"<figure>{drawing.image(pixels, alt, 192)}</figure>"
        for pixels, alt in zip(seen, alts, strict=True)
    )
    return drawing.page(
        said,
        f'<div style="max-width: 520px">{drawing.scale(found.similarity, found.threshold)}</div>',
        f"<p>{rates}</p>",
        f'<h4>Seen at {size} pixels</h4><div class="seen">{images}</div>',
    )


def about(exhibits: Sequence[Exhibit], faces: FaceBench | None) -> str:
    """Which networks are loaded and what they can do, as Markdown."""
    parts = []
    for exhibit in exhibits:
        bench = exhibit.bench
        parts.append(
            f"### {_md(exhibit.title)}\n\nRead from {_md(exhibit.source)}; {len(bench.classes)} "
            f"classes, images of {bench.full} px. Top-1 is on the test set, from each "
            "network's record.\n\n"
            "| network | distilled from | top-1 | record |\n|---|---|---:|---|"
        )
        names = {m.key: m.name for m in bench.models if m.key}
        for model in bench.models:
            source = "– (labels alone)"
            if model.learned_from is not None:
                source = names.get(model.learned_from, model.learned_from)
            top = _percent(model.test.get("top1"))
            parts.append(
                f"| {_md(model.name)}, {model.size} px | {_md(source)} | {top} "
                f"| {_md(model.key) or '–'} |"
            )
        if mixed := _unlike(bench.models):
            parts.append(f"\n{mixed}")
        parts += [f"\n{_md(m.name)}: {m.doubt}" for m in bench.models if m.doubt]
        if bench.left_out:
            parts.append(f"\nNot shown: {_md(', '.join(bench.left_out))}.")
        if exhibit.reference:
            parts.append(
                f"\nThe hint “none of these” appears for 5 % of the validation images; of the "
                f"{exhibit.reference.n:,} test images {exhibit.reference.flagged:.1f} % get it."
            )
    if faces is not None:
        parts.append(f"\n{_about_faces(faces)}")
    return "\n".join([*parts, "", LIMITS])


def _unlike(models: Iterable[Model]) -> str:
    """In what networks differ besides what is compared, as Markdown; empty if in nothing known."""
    return unlike(
        [{name: _md(str(value)) for name, value in part.items()} for part in model.trained_in]
        for model in models
    )


def _percent(value: object) -> str:
    return f"{value:.2f} %" if isinstance(value, int | float) else "not known"


def _about_faces(faces: FaceBench) -> str:
    rows = [
        "### Faces",
        "",
        "| network | accuracy | pairs | record |",
        "|---|---:|---:|---|",
    ]
    for model in faces.models.values():
        known = _percent(model.test.get("accuracy"))
        pairs = _md(str(model.test.get("n", "–")))
        rows.append(
            f"| {_md(model.name)}, {model.size} px | {known} | {pairs} | {_md(model.key) or '–'} |"
        )
    if mixed := _unlike(faces.models.values()):
        rows += ["", mixed]
    return "\n".join([*rows, "", WARNING])
