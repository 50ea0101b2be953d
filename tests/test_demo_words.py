"""What the demo says and draws: words, tables, figures as HTML and SVG, JSON, and its start."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app import drawing, show
from app.bench import ROLES, Bench, Model, divergence, load_models
from app.drawing import LOOKS, Curve
from app.faces import WARNING, FaceBench, Verdict
from app.gallery import FILTERS, Neighbour
from app.pictures import Picture, as_image
from app.reference import Reference, load
from app.show import Exhibit
from horkd import storage
from horkd.data.glyphs import CHARACTERS
from horkd.degradation import Degradation
from horkd.networks.network import ModelSpec, Network

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
#: Names that would do harm on a page that took them as they are.
HOSTILE = (
    "<script>alert(1)</script>",
    "**bold** _x_ `code`",
    "a | b |",
    "<img src=x onerror=alert(1)>",
    "\"' onload=alert(1) x='",
    "[here](https://example.com) &lt; \\ # ~ !",
)
some = settings(max_examples=60, deadline=None)


def model(size: int = 32, seed: int = 0, classes=HOSTILE, **changes) -> Model:
    values = {
        "name": f"m{seed}",
        "network": tiny.network(seed=seed, classes=len(classes)).eval(),
        "data": "glyphs",
        "classes": tuple(classes),
        "full": 32,
        "degradation": Degradation(size),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "test": {"top1": 87.654, "n": 900},
        "learned_from": None,
        "key": f"key{seed}",
        "id": f"id{seed}",
        "bytes": 1_230_000,
    }
    return Model(**{**values, **changes})


def students(**changes) -> list[Model]:
    return [
        model(8, 1, learned_from="key0", **changes),
        model(16, 2, learned_from="key0", **changes),
    ]


def measured(bench: Bench) -> Reference:
    """Plain numbers for every role and size."""
    roles = bench.roles()
    centers = {
        m.id: torch.randn(
            len(bench.classes),
            m.network.classifier.in_features,
            generator=torch.Generator().manual_seed(i),
        )
        for i, m in enumerate(bench.models)
    }
    table = {role: {s: 2.0 * s for s in bench.sizes} for role in roles[1:]}
    return Reference(
        centers,
        {"teacher": {bench.full: 64.0}, **table},
        {
            role: {s: [s + i + k / 10 for k in range(1, 10)] for s in bench.sizes}
            for i, role in enumerate(roles[1:])
        },
        {role: {s: s + 20.0 * i for s in bench.sizes} for i, role in enumerate(roles[1:])},
        (),
        -1e9,
        5.4,
        1234,
    )


def exhibit(models, known: bool = True, title: str = "Six characters") -> Exhibit:
    bench = Bench(models)
    return Exhibit(title, bench, measured(bench) if known else None, "somewhere/models")


PICTURE = Picture(as_image(tiny.data().test.images[0]), notes=("A note.",))


def asked(shown: Exhibit):
    return shown.bench.answers(PICTURE.at(32))


class Page(HTMLParser):
    """Collects elements and text of an HTML page as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def every(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]


KNOWN_TAGS = {
    *("style", "div", "figure", "figcaption", "h4", "p", "span", "strong", "br", "img"),
    *("svg", "line", "text", "circle", "polyline"),
}


def checked(html: str) -> Page:
    """The page, if it is well-formed, accessible, harmless and asks for nothing elsewhere."""
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(svg)
    page = Page(html)
    assert {name for name, _ in page.elements} <= KNOWN_TAGS
    for name, attrs in page.elements:
        assert not any(a.startswith("on") for a in attrs), attrs
        assert "href" not in attrs
        if name == "img":
            assert attrs["alt"].strip()
            assert attrs["src"].startswith("data:image/png;base64,")
        if name == "svg" and attrs.get("aria-hidden") != "true":
            assert attrs["role"] == "img"
            assert attrs["aria-label"].strip()
    return page


def rendered(text: str) -> Page:
    """Markdown as another program shows it."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    return Page(markdown.render(text))


ALL = [model(), *students(), model(8, 3), model(16, 4)]
KINDS = {
    "all roles": ALL,
    "nobody alone": ALL[:3],
    "an assistant": [*ALL, model(32, 5, learned_from="key0")],
    "an assistant only": [ALL[0], model(32, 5, learned_from="key0")],
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
MEASURED = pytest.mark.parametrize("known", [True, False], ids=["measured", "unmeasured"])


# --- words ------------------------------------------


@EVERY_KIND
@MEASURED
@pytest.mark.parametrize("size", [4, 8, 18, 32])
def test_the_verdict_says_who_says_what(kind, known, size):
    shown = exhibit(KINDS[kind], known)
    answers = asked(shown)
    text = show.verdict(shown, answers, size)
    page = rendered(text)
    assert {name for name, _ in page.elements} <= {"p", "strong", "ul", "li"}
    assert len(page.every("p")) == 2
    assert len(page.every("li")) == len(shown.bench.roles()) - 1
    first, *rest, last = [line for line in page.text.splitlines() if line.strip()]
    name, sure = answers["teacher"][size].top(1)[0]
    assert first == f"At full resolution the teacher says {name} ({sure:.0%})."
    apart = []
    short = {"teacher small": "itself", "student": "student", "alone": "undistilled"}
    for i, (role, line) in enumerate(zip(shown.bench.roles()[1:], rest, strict=True)):
        answer = answers[role][size]
        own, p = answer.top(1)[0]
        expected = f"fed {size} px, says {'the same' if own == name else own} ({p:.0%})"
        usual = ""
        if known:
            expected += f"; on {size + 20 * i} % of test images it agrees with the teacher"
            usual = f" (median of test images {size + i + 0.5:.2f})"
        assert line.partition(", ")[2] == f"{expected}."
        kl = divergence(answers["teacher"][size], answer)
        apart.append(f"{short[role]} {kl:.2f}{usual}")
    assert last == f"KL from the teacher's answer, in nats: {', '.join(apart)}."


@pytest.mark.parametrize(
    ("kind", "size", "student"),
    [
        ("all roles", 8, "The student"),
        ("an assistant", 30, "The student"),
        ("an assistant", 32, "The assistant"),
        ("an assistant only", 32, "The assistant"),
        ("all roles", 32, "The student"),
        ("an assistant only", 8, "The assistant"),
    ],
)
def test_who_is_who_in_the_verdict_goes_by_the_network(kind, size, student):
    undistilled = ["- The same network undistilled"] if kind != "an assistant only" else []
    shown = exhibit(KINDS[kind])
    lines = show.verdict(shown, asked(shown), size).splitlines()
    speakers = [line.partition(", ")[0] for line in lines if line.startswith("- ")]
    assert speakers == ["- The teacher", f"- {student}", *undistilled]


def test_the_median_is_the_fifth_decile():
    shown = exhibit(ALL)
    deciles = [0.11, 0.22, 0.33, 0.44, 5.55, 6.66, 7.77, 8.88, 9.99]
    usual = {role: dict.fromkeys(shown.bench.sizes, deciles) for role in shown.bench.roles()[1:]}
    known = replace(shown.reference, divergence=usual)
    text = show.verdict(replace(shown, reference=known), asked(shown), 8)
    assert text.count("(median of test images 5.55)") == 3
    unmeasured = show.verdict(replace(shown, reference=None), asked(shown), 8)
    assert "median" not in unmeasured
    assert "test images" not in unmeasured


def test_what_stands_above_an_answer():
    shown = exhibit(ALL)
    answers = asked(shown)
    assert show.role_title("teacher", answers["teacher"][8], 8) == (
        "Teacher, 32 px (full resolution)"
    )
    title = show.role_title("student", answers["student"][8], 8)
    assert title == "Student fed 8 px"
    title = show.role_title("student", answers["student"][4], 4)
    assert title == "Student fed 4 px, enlarged to 8"
    title = show.role_title("alone", answers["alone"][14], 14)
    assert title == "Undistilled, fed 14 px, reduced to 8"
    assert show.role_title("student", answers["student"][32], 32) == (
        "Student fed 32 px, reduced to 16"
    )
    whole = asked(exhibit(KINDS["an assistant"]))["student"]
    assert show.role_title("student", whole[32], 32) == "Assistant fed 32 px"
    assert show.role_title("student", whole[16], 16) == "Student fed 16 px"
    only = asked(exhibit(KINDS["an assistant only"]))["student"]
    assert show.role_title("student", only[8], 8) == "Assistant fed 8 px, enlarged to 32"
    enlarged = Bench(ALL, (8,)).answers(PICTURE.at(32))["teacher small"]
    assert show.role_title("teacher small", enlarged[8], 8) == ("Teacher fed 8 px, enlarged to 32")
    assert show.role_title("teacher small", enlarged[10], 10) == "Teacher fed 10 px"


def test_the_nearest_size():
    shown = exhibit(ALL)
    for value in np.linspace(-5, 40, 91):
        found = shown.nearest_size(value)
        assert found in shown.bench.sizes
        assert all(abs(found - value) <= abs(s - value) for s in shown.bench.sizes)
    assert shown.nearest_size("16") == 16
    assert shown.nearest_size(1e9) == 32
    assert shown.nearest_size(-(10**30)) == 4
    for bad in (math.nan, math.inf, -math.inf, "nan", "many", "", True, False):
        with pytest.raises(ValueError):
            shown.nearest_size(bad)
    for bad in (None, [], {}):
        with pytest.raises(TypeError):
            shown.nearest_size(bad)


@pytest.mark.parametrize("size", [1e18, 1e300, 10**30, "1e300"])
def test_the_nearest_size_to_a_huge_number(size):
    shown = exhibit(ALL)
    assert shown.nearest_size(size) == 32
    assert shown.nearest_size(-float(size)) == 4


@EVERY_KIND
def test_the_table_of_costs(kind):
    shown = exhibit(KINDS[kind])
    text = show.costs(shown, asked(shown), 8)
    page = rendered(text)
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in text.splitlines() if line.startswith("|")]  # fmt: skip
    roles = [r for r in ("teacher", "student", "alone") if r in shown.bench.roles()]
    assert len(page.every("th")) == len(roles) + 1
    assert all(len(row) == len(roles) + 1 for row in rows)
    cells = {row[0]: row[1:] for row in rows[2:]}
    for i, role in enumerate(roles):
        who = asked(shown)[role][8].model
        assert cells["network"][i] == who.name
        assert cells["fed"][i] == f"{who.input} px"
        assert cells["parameters"][i] == f"{who.cost['parameters'] / 1e6:.2f} M"
        assert cells["MACs"][i] == f"{who.cost['macs'] / 1e6:.1f} M"
        assert cells["time here"][i] == f"{who.cost['milliseconds']:.1f} ms"
        assert cells["file"][i] == "1.23 MB"


def test_counting_images():
    gallery = type("G", (), {"test": range(2000)})()
    assert show.count(gallery, 1000, 24, False) == (
        "1,000 of 2,000 test images (50.0%); those the student is surest of first, 24 shown."
    )
    assert show.count(gallery, 0, 0, False) == "0 of 2,000 test images (0.0%)."
    found = show.count(gallery, 3, 3, True)
    assert found.startswith("3 of 2,000 test images (of one class);")


# --- JSON ------------------------------------------


def finite(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and finite(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(finite, value))
    return value is None or isinstance(value, str | bool) or math.isfinite(value)


@EVERY_KIND
@MEASURED
@pytest.mark.parametrize("size", [4, 16, 32])
def test_the_answers_as_json(kind, known, size):
    shown = exhibit(KINDS[kind], known)
    answers = asked(shown)
    found = show.as_json(shown, PICTURE, answers, size)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert finite(found)
    assert found["models"] == "Six characters"
    assert found["resolution_px"] == size
    assert found["unfamiliar"] is (False if known else None)
    assert found["notes"] == ["A note."]
    assert list(found["answers"]) == [r.replace(" ", "_") for r in shown.bench.roles()]
    whole = answers["teacher"][size]
    for role, row in zip(shown.bench.roles(), found["answers"].values(), strict=True):
        answer = answers[role][size]
        p = [top["probability"] for top in row["top5"]]
        assert p == sorted(p, reverse=True)
        assert len(p) == 5
        assert 0 <= min(p) <= max(p) <= 1
        labels = [top["label"] for top in row["top5"]]
        assert labels == [answer.model.classes[i] for i in answer.logits.topk(5).indices]
        assert row["network"] == answer.model.name
        assert row["fed_px"] == answer.fed
        same = answer.logits.argmax() == whole.logits.argmax()
        assert row["same_answer_as_teacher"] == bool(same)
        assert row["kl_from_teacher_nats"] == pytest.approx(divergence(whole, answer), abs=1e-6)
    assert found["answers"]["teacher"]["kl_from_teacher_nats"] == 0


def test_an_untrained_network_is_named_in_the_api():
    from app.page import Server

    fresh = [ALL[0], replace(ALL[1], test={}), replace(ALL[2], test={"top1": 17.0, "n": 300})]
    shown = exhibit(fresh)
    server = Server([shown], None)
    notes = server.compare(PICTURE, 8, shown.title)["notes"]
    assert notes == ["m1: No test result is known of it: it may be untrained.", "A note."]
    notes = server.compare(PICTURE, 16, "Six characters")["notes"]
    assert notes[0].startswith("m2: It is untrained: 17.0 % on the test set")
    assert server.compare(PICTURE, 15.2, shown.title)["resolution_px"] == 16


def test_two_classes():
    shown = exhibit([model(classes="ab"), *students(classes="ab"), model(8, 3, "ab")])
    answers = asked(shown)
    found = show.as_json(shown, PICTURE, answers, 8)
    assert [len(row["top5"]) for row in found["answers"].values()] == [2] * 4
    for row in found["answers"].values():
        assert sum(t["probability"] for t in row["top5"]) == pytest.approx(1, abs=1e-5)
    assert "says" in show.verdict(shown, answers, 8)
    checked(show.curves(shown, answers, 8))
    page = checked(show.relations(shown, None, answers, 8))
    assert "Over all 2 classes" in page.text
    assert "2 classes" in show.about([shown], None)


# --- nothing of a name reaches the page raw ------------------------------------------


class Neighbours:
    """Stands in for a gallery: five training images of hostile names."""

    train = tiny.data().train

    def neighbours(self, answer):
        images = tiny.data().train.images
        return [Neighbour(n, 0.5, images[i]) for i, n in enumerate(HOSTILE[:5])]


@EVERY_KIND
@MEASURED
def test_html_is_well_formed_and_names_are_escaped(kind, known):
    shown = exhibit(KINDS[kind], known)
    answers = asked(shown)
    pages = [show.curves(shown, answers, 8)]
    pages += [show.relations(shown, g, answers, 8) for g in (None, Neighbours())]
    for html in pages:
        page = checked(html)
        assert "<script" not in html
        assert "<img src=x" not in html
    name = answers["teacher"][8].top(1)[0][0]
    page = checked(pages[0])
    assert f"This picture: probability of “{name}”" in page.text
    label = page.every("svg")[0]["aria-label"]
    assert label.startswith(f"This picture: probability of “{name}”. At 8 pixels: teacher")


@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
@some
def test_any_name_is_shown_as_it_is(name):
    name = name if name.strip() else "x"
    page = checked(drawing.tiles(name, [(torch.zeros(3, 4, 4).byte(), name, name)]))
    assert page.text == name + name
    assert page.every("img")[0]["alt"] == name
    pairs = drawing.pairs([(torch.zeros(3, 4, 4).byte(),) * 2 + (name, [name, name])])
    assert checked(pairs).text == name * 3
    assert checked(drawing.hint(name)).text == name
    figure = checked(drawing.distances([name, "b"], {"teacher": [1, 2], "student": [3, 4.0]}))
    assert f"{name}: teacher 1.00, student 3.00; b" in figure.every("svg")[0]["aria-label"]
    assert (name if len(name) <= 17 else name[:16] + "…") in figure.text


@given(name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20))
@some
def test_any_name_passes_through_markdown(name):
    name = " ".join(name.split()) or "x"  # names are put on one line
    text = show._md(name)
    for line in (f"says **{text}**.", f"- The student says **{text}**; far."):
        page = rendered(line)
        assert {tag for tag, _ in page.elements} <= {"p", "strong", "ul", "li"}
        assert page.text.strip() == line.replace(f"**{text}**", name).removeprefix("- ")
    table = rendered(f"| a | b |\n|---|---|\n| {text} | x |")
    assert len(table.every("td")) == 2
    assert name in table.text


@pytest.mark.parametrize(
    "name", [*HOSTILE, "**", "|", "<b>", "*", "$", "#", "1. x", "- x", "&amp;"]
)
def test_every_place_for_a_name_in_markdown(name):
    names = (name, "second")
    shown = exhibit([model(classes=names, name=name), model(8, 1, names, name=name + "s",
                     learned_from=name), model(16, 2, names, learned_from="key0", key=""),
                     model(16, 5, names, name="m2" + name, learned_from="x")],
                    title=name)  # fmt: skip
    answers = asked(shown)
    for text in (
        show.about([shown], None),
        show.costs(shown, answers, 8),
        show.verdict(shown, answers, 8),
    ):
        assert "<script" not in text.replace("\\<script", "")
        page = rendered(text)
        tags = {
            "p",
            "strong",
            "ul",
            "li",
            "h3",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }
        assert {tag for tag, _ in page.elements} <= tags
    assert name in rendered(show.about([shown], None)).text
    assert name in rendered(show.costs(shown, answers, 8)).text


@pytest.mark.parametrize("key", ["x` <script>alert(1)</script> `y", "a`|b|`c", "a | b"])
@pytest.mark.parametrize("of_faces", [False, True])
def test_a_records_key_is_escaped(key, of_faces):
    shown = exhibit([model(key=key), *students()], known=False)
    named = None
    if of_faces:
        network = Network(ModelSpec("resnet8x0.25", 0, embedding=8)).eval()
        named = FaceBench([model(16, classes=(), network=network, key=key)])
        shown = exhibit(ALL)
    page = rendered(show.about([shown], named))
    assert "script" not in {tag for tag, _ in page.elements}
    cells = 4 * (1 + len(ALL) if of_faces else 3)
    assert len(page.every("td")) == cells
    assert key in page.text
    # nor is that of a teacher which is not here
    page = rendered(show.about([exhibit([model(), model(8, 1, learned_from=key)])], None))
    assert len(page.every("td")) == 8
    assert key in page.text
    assert "code" not in {tag for tag, _ in page.elements}


def test_a_folders_name_is_escaped():
    page = rendered(show.about([replace(exhibit(ALL), source="a`<b>x</b>`")], None))
    assert not {"b", "code"} & {tag for tag, _ in page.elements}
    assert "Read from a`<b>x</b>`; 6 classes" in page.text


@pytest.mark.parametrize("end", ["\n\n", "\r\n", "\r", "\u2028", "\x0b", "\n| - |\n"])
def test_a_name_of_several_lines(end):
    names = (f"a{end}b", f"b{end}a")
    shown = exhibit([model(classes=names, name=f"x{end}y", key=f"k{end}l"),
                     model(8, 1, names, name=f"s{end}", learned_from=f"t{end}u")],
                    title=f"t{end}t")  # fmt: skip
    said = rendered(show.verdict(shown, asked(shown), 8))
    assert (len(said.every("p")), len(said.every("li"))) == (2, 2)
    shown = replace(shown, source=f"some{end}where")
    page = rendered(show.about([shown], None))
    assert len(page.every("td")) == 8
    assert len(page.every("h3")) == 3
    costs = rendered(show.costs(shown, asked(shown), 8))
    assert len(costs.every("td")) == 6 * 3


@pytest.mark.parametrize(
    ("test", "of_faces"),
    [
        ({"top1": "<b>90</b>", "n": 100}, False),
        ({"top1": None, "n": 100}, False),
        ({"accuracy": "<b>90</b>", "n": 100}, True),
        ({"accuracy": 90.0, "n": "<b>1</b>"}, True),
    ],
)
def test_test_results_that_are_no_numbers(test, of_faces):
    if of_faces:
        network = Network(ModelSpec("resnet8x0.25", 0, embedding=8)).eval()
        text = show.about([], FaceBench([model(16, classes=(), network=network, test=test)]))
    else:
        text = show.about([exhibit([model(test=test), *students()])], None)
    page = rendered(text)
    assert "b" not in {tag for tag, _ in page.elements}
    assert len(page.every("td")) == (4 if of_faces else 12)


# --- figures ------------------------------------------


def svg(html: str) -> ET.Element:
    return ET.fromstring(re.search(r"<svg.*?</svg>", html, re.DOTALL)[0])


def axes(figure: ET.Element):
    """x → size and y → percent, from the labels of the axes by least squares."""
    ticks = [(t, t.text) for t in figure.iter("text") if (t.text or "").isdigit()]
    across = [(float(t.get("x")), int(s)) for t, s in ticks if t.get("text-anchor") == "middle"]
    upward = [(float(line.get("y1")), p)
              for line, p in zip([e for e in figure.iter("line") if e.get("y1") == e.get("y2")],
                                 (0, 25, 50, 75, 100), strict=True)]  # fmt: skip
    return [np.polyfit(*zip(*pairs, strict=True), 1) for pairs in (across, upward)]


@pytest.mark.parametrize("current", [4, 16, 32])
def test_points_lie_where_their_values_are(current):
    random = np.random.default_rng(current)
    values = {s: float(random.uniform(0, 100)) for s in range(4, 33, 2)}
    lines = [Curve("student", values, (8, 16, 99)), Curve("teacher", dict.fromkeys(values, 60.0))]
    figure = svg(drawing.curves("T", "top-1 (%)", lines, current))
    x, y = axes(figure)
    first, second = figure.iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in first.get("points").split()]
    assert [np.polyval(x, a) for a, _ in points] == pytest.approx(list(values), abs=0.02)
    assert [np.polyval(y, b) for _, b in points] == pytest.approx(list(values.values()), abs=0.05)
    flat = [float(p.split(",")[1]) for p in second.get("points").split()]
    assert np.polyval(y, flat[0]) == pytest.approx(60, abs=0.05)
    assert len(set(flat)) == 1
    assert (first.get("stroke"), second.get("stroke")) == ("#D55E00", "#0072B2")
    # dots where a network was trained, rings at the current size
    where = {float(c.get("r")): [] for c in figure.iter("circle")}
    for c in figure.iter("circle"):
        at = np.polyval(x, float(c.get("cx"))), np.polyval(y, float(c.get("cy")))
        where[float(c.get("r"))].append(at)
    dots, rings = where[3.2], where[6.0]
    assert sorted(a for a, _ in dots) == pytest.approx([8, 16], abs=0.02)
    for a, b in dots:
        assert b == pytest.approx(values[round(a)], abs=0.05)
    assert [a for a, _ in rings] == pytest.approx([current] * 2, abs=0.02)
    assert [b for _, b in rings] == pytest.approx([values[current], 60], abs=0.05)
    (marker,) = (e for e in figure.iter("line") if e.get("x1") == e.get("x2"))
    assert np.polyval(x, float(marker.get("x1"))) == pytest.approx(current, abs=0.02)
    assert figure.get("aria-label") == (
        f"T. At {current} pixels: student {values[current]:.0f} %; teacher, full resolution 60 %."
    )


@pytest.mark.parametrize("values", [{8: 50.0}, {8: 0.0, 32: 100.0}, {4: 0, 5: 0, 6: 0}])
def test_figures_of_few_points_stay_inside(values):
    figure = svg(drawing.curves("T", "a", [Curve("alone", values)], min(values)))
    _, _, width, height = map(float, figure.get("viewBox").split())
    for point in figure.find("polyline").get("points").split():
        a, b = map(float, point.split(","))
        assert 0 <= a <= width
        assert 0 <= b <= height


def test_the_pages_curves_are_those_of_the_answers():
    shown = exhibit(ALL)
    answers = asked(shown)
    html = show.curves(shown, answers, 16)
    figures = re.findall(r"<svg viewBox=\"0 0 420.*?</svg>", html, re.DOTALL)
    assert len(figures) == 2
    name = answers["teacher"][32].top(1)[0][0]
    index = shown.bench.classes.index(name)
    for number, text in enumerate(figures):
        figure = ET.fromstring(text)
        x, y = axes(figure)
        for role, line in zip(ROLES, figure.iter("polyline"), strict=True):
            assert line.get("stroke") == LOOKS[role][1]
            for (a, b), size in zip(
                (map(float, p.split(",")) for p in line.get("points").split()),
                shown.bench.sizes,
                strict=True,
            ):
                assert np.polyval(x, a) == pytest.approx(size, abs=0.02)
                p = 100 * float(answers[role][size].logits.softmax(0)[index])
                measured = 64 if role == "teacher" else 2 * size
                expected = measured if number else p
                assert np.polyval(y, b) == pytest.approx(expected, abs=0.06)
    page = checked(html)
    assert "All 1,234 test images: right answers" in page.text
    assert all(LOOKS[role][0] in page.text for role in ROLES)
    assert "the student is the assistant" not in page.text
    whole = exhibit(KINDS["an assistant"])
    assert "At 32 pixels the student is the assistant." in show.curves(whole, asked(whole), 16)
    unmeasured = show.curves(replace(shown, reference=None), answers, 16)
    assert len(re.findall(r"<polyline", unmeasured)) == 4


def test_distances_lie_where_their_values_are():
    rows = {"teacher": [0.3, 0.8, 1.4], "student": [0.7, 0.8, 1.0]}
    figure = svg(drawing.distances(["a", "b", "c"], rows))
    ticks = [(float(t.get("x")), float(t.text)) for t in figure.iter("text")
             if re.fullmatch(r"\d(\.\d)?", t.text)]  # fmt: skip
    x = np.polyfit(*zip(*ticks, strict=True), 1)
    assert len(ticks) == 5
    found = [(c.get("fill"), float(c.get("cy")), np.polyval(x, float(c.get("cx"))))
             for c in figure.iter("circle")]  # fmt: skip
    for role, row in rows.items():
        mine = [(b, v) for colour, b, v in found if colour == LOOKS[role][1]]
        assert [v for _, v in mine] == pytest.approx(row, abs=0.005)
        assert [b for b, _ in mine] == sorted(b for b, _ in mine)
    for values in ([0.0, 0.0], [1e-6, 50.0], [1.0, 1.0]):
        figure = svg(drawing.distances(["a", "b"], {"teacher": values, "student": values[::-1]}))
        width = float(figure.get("viewBox").split()[2])
        for c in figure.iter("circle"):
            assert 0 <= float(c.get("cx")) <= width


@pytest.mark.parametrize("similarity", [-1.0, -0.3, 0.0, 0.7, 1.0, 1.0000002, -1.5])
@pytest.mark.parametrize("threshold", [None, -1.0, 0.25, 1.0])
def test_the_scale_of_similarity(similarity, threshold):
    html = drawing.scale(similarity, threshold)
    checked(html)
    figure = svg(html)
    (dot,) = figure.iter("circle")
    inside = min(max(similarity, -1), 1)
    assert (float(dot.get("cx")) - 10) / 200 - 1 == pytest.approx(inside, abs=0.001)
    marks = [e for e in figure.iter("line") if e.get("x1") == e.get("x2")]
    assert len(marks) == (threshold is not None)
    for mark in marks:
        assert (float(mark.get("x1")) - 10) / 200 - 1 == pytest.approx(threshold, abs=0.001)
    assert f"Similarity {similarity:.2f}" in figure.get("aria-label")


def test_distances_to_the_centres_are_those_of_the_features():
    shown = exhibit(ALL)
    answers = asked(shown)
    page = checked(show.relations(shown, None, answers, 8))
    label = next(a["aria-label"] for a in page.every("svg")
                 if a.get("aria-label", "").startswith("Distances"))  # fmt: skip
    ranks = {}
    for role in ("teacher", "student"):
        answer = answers[role][8]
        far = [math.dist(answer.features.tolist(), c)
               for c in shown.reference.centers[answer.model.id].tolist()]  # fmt: skip
        mean = sum(far) / len(far)
        ranks[role] = np.argsort(np.argsort(far))
        for name, d in zip(HOSTILE, far, strict=True):
            assert re.search(re.escape(name) + r": [^;]*" + f"{role} {d / mean:.2f}", label)
    gap = ranks["teacher"] - ranks["student"]
    n = len(HOSTILE)
    alike = 1 - 6 * float((gap**2).sum()) / (n * (n * n - 1))  # Spearman, without ties
    assert f"rank correlation of {alike:.2f}" in page.text


@given(seed=st.integers(0, 2**16), n=st.integers(1, 30))
@some
def test_the_classes_that_are_near_for_either(seed, n):
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.rand(2, n, generator=generator)
    found = show._nearest_of_both(teacher, student)
    assert len(found) == len(set(found)) == min(10, n)
    assert found == sorted(found, key=lambda i: teacher[i])
    assert {int(teacher.argmin()), int(student.argmin())} <= set(found) or n == 1
    kept = [min(int((x < x[i]).sum()) for x in (teacher, student)) for i in range(n)]
    left = [kept[i] for i in range(n) if i not in found]
    assert not left or max(kept[i] for i in found) <= min(left)


def test_an_image_in_the_page_shows_its_pixels():
    import base64
    import io

    from PIL import Image

    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    (img,) = checked(drawing.image(pixels, 'a "quoted" <alt>')).every("img")
    assert img["alt"] == 'a "quoted" <alt>'
    file = io.BytesIO(base64.b64decode(img["src"].partition(",")[2]))
    shown = np.asarray(Image.open(file))
    assert shown.shape == (96, 96, 3)
    block = np.repeat(np.repeat(pixels.permute(1, 2, 0).numpy(), 12, 0), 12, 1)
    assert np.array_equal(shown, block)


def luminance(colour: str) -> float:
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_lines_stand_out_in_light_and_dark():
    """3:1 by WCAG 2.1, against white and against gradio's dark backgrounds."""
    for _, colour, _ in LOOKS.values():
        for ground in ("#ffffff", "#0b0f19"):
            dark, light = sorted([luminance(colour), luminance(ground)])
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, ground)


# --- gallery, faces, about ------------------------------------------


def test_a_pair_of_the_gallery():
    data, bench = tiny.data(), Bench([replace(m, classes=CHARACTERS[:6]) for m in ALL[:3]])

    class Shown:
        test = data.test

        def answers(self, role, size):
            p = bench.outputs(role, data.test.images, size)[3].softmax(1)
            return p.argmax(1), p.amax(1)

    shown = Shown()
    shown.bench = bench
    for i in (0, 5):
        image, small, name, said = show.pair(shown, i, 8)
        assert torch.equal(image, data.test.images[i])
        assert torch.equal(small, Degradation(8)(data.test.images[i : i + 1])[0])
        assert name == data.test.classes[data.test.labels[i]]
        answers = bench.answers(data.test.images[i : i + 1])
        for role, line, who in zip(
            ROLES, said, ("teacher", "teacher fed 8 px", "student"), strict=False
        ):
            label, p = answers[role][8].top(1)[0]
            assert line == f"{who}: {label} {p:.0%}"
    assert len(FILTERS) == 5


@pytest.mark.parametrize(("similarity", "said"), [(0.8, "One person"), (0.7, "Two persons")])
def test_the_verdict_on_faces(similarity, said):
    seen = [torch.zeros(3, 16, 16).byte()] * 2
    found = Verdict("<b>net</b>", similarity, 0.75, 12.34, 5.0, 300)
    html = show.verdict_on_faces(found, seen, 16)
    page = checked(html)
    assert f"{said}, says <b>net</b>" in page.text
    assert "12.3 % of 300 pairs of two people" in page.text
    assert "5.0 % of 300 pairs of one person" in page.text
    assert "framed as there, of people the network had never seen" in page.text
    assert "It compares whatever it is given, face or not." in page.text
    assert WARNING not in page.text  # it stands above, once
    assert "Seen at 16 pixels" in page.text
    assert len(page.every("img")) == 2
    unmeasured = checked(show.verdict_on_faces(Verdict("n", similarity), seen, 16))
    assert "No threshold was measured" in unmeasured.text
    assert "person, says" not in unmeasured.text


def test_about_names_every_network_with_its_recorded_accuracy():
    exhibits = []
    for name in ("cpu-cifar100", "quick-glyphs"):
        folder = REPORTS / name / "models"
        bench = Bench(load_models(folder))
        exhibits.append(
            Exhibit(name, bench, load(folder / "reference.safetensors", bench), str(folder))
        )
    faces = FaceBench(load_models(REPORTS / "faces-lfw" / "models"))
    text = show.about(exhibits, faces)
    rows = [[c.strip().replace("\\", "") for c in line.split("|")[1:-1]]
            for line in text.splitlines() if line.startswith("| ")]  # fmt: skip
    for report in ("cpu-cifar100", "quick-glyphs", "faces-lfw"):
        for path in (REPORTS / report / "models").glob("*.safetensors"):
            if path.stem == "reference":
                continue
            header = storage.load_tensors(path)[1]
            (row,) = (r for r in rows if r[-1] == header["key"])
            assert row[0] == f"{path.stem}, {header['degradation']['size']} px"
            if report == "faces-lfw":
                assert row[1] == f"{header['test']['accuracy']:.2f} %"
                assert row[2] == str(header["test"]["n"])
                continue
            assert row[2] == f"{header['test']['top1']:.2f} %"
            origins = {None: "– (labels alone)"}
            for e in exhibits:
                origins |= {m.key: m.name for m in e.bench.models}
            assert row[1] == origins[header["learned_from"]]
    assert text.count("| network | distilled from | top-1 | record |") == 2
    assert "`" not in text
    for e in exhibits:
        assert e.source in text.replace("\\", "")
        assert f"{e.reference.n:,} test images {e.reference.flagged:.1f} % get it" in text
    assert WARNING in text
    assert show.LIMITS in text


def test_about_says_what_is_wrong_and_what_is_left_out():
    models = [
        model(),
        model(8, 1, learned_from="elsewhere", test={}),
        model(8, 2, name="longer", learned_from="key0"),
        model(16, 3, test={"top1": 17.0, "n": 300}),
    ]
    shown = exhibit(models, known=False)
    page = rendered(show.about([shown], None))
    assert "Not shown: longer." in page.text
    assert "m1: No test result is known of it" in page.text
    assert "m3: It is untrained" in page.text
    assert "| m1, 8 px | elsewhere | not known | key1 |" in show.about([shown], None)
    assert "| m0, 32 px | – \\(labels alone\\) | 87.65 % | key0 |" in show.about([shown], None)
    assert "not known" in page.text
    assert "validation images" not in page.text
    assert WARNING not in page.text


@pytest.mark.parametrize("of_faces", [False, True])
def test_about_says_that_networks_were_not_trained_alike(of_faces):
    alike = [{"precision": "fp32", "device": "cpu", "torch": "2.15.0"}]
    other = [{"precision": "bf16", "device": "cpu", "torch": "<b>|2.15.0"}]

    def about(*ways):
        given = {"classes": (), "network": tiny.network(classes=0).eval()} if of_faces else {}
        sizes = zip((32, 8, 16), ways, strict=True)
        models = [
            model(size, i, learned_from="key0" if i else None, trained_in=way, **given)
            for i, (size, way) in enumerate(sizes)
        ]
        if of_faces:
            return show.about([], FaceBench(models))
        return show.about([exhibit(models, known=False)], None)

    assert "trained alike" not in about((), (), ())
    assert "trained alike" not in about(alike, (), alike)
    page = rendered(about(alike, alike, other))
    assert "precision: bf16 (1), fp32 (2)" in page.text
    assert "version of torch: 2.15.0 (2), <b>|2.15.0 (1)" in page.text


def test_data_that_are_missing():
    shown = exhibit([replace(m, data="<b>") for m in ALL], known=False)
    assert "&lt;b&gt;" in show.missing_data(shown)
    assert "HORKD_DATA" in show.missing_data(shown)
    html = show.relations(exhibit(ALL, known=False), None, asked(exhibit(ALL)), 8)
    page = checked(html)
    assert "Images of glyphs are not on this machine" in page.text
    assert "Class centres were not measured" in page.text
