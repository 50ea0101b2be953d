"""The page: Gradio components, and which function answers when."""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from app import drawing, pictures, show
from app.bench import ROLES, Bench, at_hand
from app.examples import EXAMPLES
from app.faces import FRAMINGS, WARNING, FaceBench, Verdict
from app.gallery import FILTERS, Gallery
from app.show import Exhibit
from app.upload import Choice, Page, Photo, Pixels, Upload, forget, sentence, told
from horkd.data.glyphs import render
from horkd.errors import HorkdError

TITLE = "What a student of few pixels sees"
INTRODUCTION = (
    "A large **teacher** looks at sharp images. A small **student** looks at few pixels and has "
    "learned from the teacher how images relate to each other. Slide the resolution down and see "
    "who still knows what is in the picture."
)
#: Seconds between two looks at what visitors sent, and how long it may stay. What is found too old
#: was too young at the look before, and what was read of it is forgotten by the look after.
CLEANING = (300, 3600 - 600)
#: Pictures of the gallery at a time.
SHOWN = 24
ANY_CLASS = "all classes"
CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; width: 100%; }
.gradio-container .label { color: var(--body-text-color) !important; }
.gradio-container .image-frame img { width: 100%; height: 100%; object-fit: contain; }
footer .divider { display: none; }
.gradio-container :focus-visible { outline: 3px solid var(--color-accent) !important;
  outline-offset: 2px; }
.dark { --color-accent: #60a5fa; }
.gradio-container .prose td, .gradio-container .prose th { padding: 5px 7px !important;
  font-size: 13px !important; word-break: normal !important; overflow-wrap: normal !important; }
"""
#: Gradio gives the two pictures of a comparison no text, and says nothing when words change.
DESCRIBE = """() => {
  for (const id of ["verdict", "notes", "same", "count"])
    document.getElementById(id)?.setAttribute("aria-live", "polite");
  const both = document.getElementById("both");
  const describe = () => both.querySelectorAll("img").forEach((image, i) => {
    const text = i ? "The same picture reduced" : "The picture as sent";
    if (image.alt !== text) image.alt = text;
  });
  new MutationObserver(describe).observe(both, {childList: true, subtree: true});
  describe();
}"""
#: Where relations will stand once their tab is opened for these networks and a picture.
NOT_YET = drawing.page("<p>Open this tab again to look at the training images.</p>")
_GLYPHS = "RaΩж7&éд8Q"


class Server:
    """What the page's functions share: exhibits, and the galleries made for them so far.

    Args:
        exhibits: title -> exhibit, at least one.
        faces: networks for faces, or None.
    """

    def __init__(self, exhibits: Sequence[Exhibit], faces: FaceBench | None) -> None:
        self.exhibits = {e.title: e for e in exhibits}
        self.faces = faces
        self.galleries: dict[str, Gallery] = {}
        self._making = threading.Lock()

    def exhibit(self, title: object) -> Exhibit:
        """By title.

        Raises:
            HorkdError: if there is none of that title.
        """
        if title not in list(self.exhibits):
            known = ", ".join(self.exhibits)
            raise HorkdError(f"there are no networks of that title here: choose from {known}")
        return self.exhibits[title]

    def forget(self) -> None:
        """Forget pictures and their answers, so that they outlive no file."""
        forget()
        for exhibit in self.exhibits.values():
            exhibit.bench.forget()

    @property
    def first(self) -> Bench:
        """The networks that the page begins with."""
        return next(iter(self.exhibits.values())).bench

    def gallery(self, exhibit: Exhibit, progress: Callable | None) -> Gallery | None:
        """The gallery of an exhibit, made if there is a progress to report to.

        None if its data set is not at hand, or if it was not made yet and is not to be now.
        """
        if (
            progress is not None
            and exhibit.title not in self.galleries
            and at_hand(exhibit.bench.data)
        ):
            with self._making:
                if exhibit.title not in self.galleries:
                    self.galleries[exhibit.title] = Gallery(exhibit.bench, progress)
        return self.galleries.get(exhibit.title)

    def size(self, exhibit: Exhibit, pixels: object) -> int:
        """The resolution nearest to what a visitor gave."""
        try:
            return exhibit.nearest_size(pixels)
        except (TypeError, ValueError, OverflowError):
            raise HorkdError("the resolution must be a number of pixels") from None

    def compare(self, picture: pictures.Picture | None, resolution: float, models: str) -> dict:
        """Answer one picture by every model, at one resolution.

        Args:
            picture: the picture.
            resolution: pixels that it is reduced to; the nearest one of those looked at is taken.
            models: which networks, by their title.
        """
        if picture is None:
            raise HorkdError("there is no picture: send one")
        exhibit = self.exhibit(models)
        size = self.size(exhibit, resolution)
        return show.as_json(
            exhibit, picture, exhibit.bench.answers(picture.at(exhibit.bench.full)), size
        )

    def answers(self, picture: Upload, resolution: float, title: str) -> list:
        """All of the page that depends on picture, resolution and models."""
        exhibit = self.exhibit(title)
        roles = exhibit.bench.roles()
        if not isinstance(picture, pictures.Picture):
            labels = [gr.Label(None, visible=role in roles) for role in ROLES]
            return [None, *_no_picture(picture), *labels, "", "", NOT_YET]
        size = self.size(exhibit, resolution)
        image = picture.at(exhibit.bench.full)
        found = exhibit.bench.answers(image)
        notes = [drawing.hint(text) for text in show.doubts(exhibit, found, size)]
        labels = [
            gr.Label(
                dict(found[role][size].top()) if role in roles else None,
                label=show.role_title(role, found[role][size], size) if role in roles else "",
                visible=role in roles,
            )
            for role in ROLES
        ]
        gallery = self.gallery(exhibit, None)
        opened = gallery is not None or not at_hand(exhibit.bench.data)
        return [
            gr.ImageSlider(
                (picture.shown(), pictures.enlarged(exhibit.bench.reduced(image, size)[0])),
                label=f"Left: as sent. Right: {size} pixels.",
            ),
            show.verdict(exhibit, found, size),
            drawing.page(*notes, *(f"<p>{note}</p>" for note in picture.notes)),
            *labels,
            show.curves(exhibit, found, size),
            show.costs(exhibit, found, size),
            show.relations(exhibit, gallery, found, size) if opened else NOT_YET,
        ]

    def relations(
        self,
        picture: Upload,
        resolution: float,
        title: str,
        progress=gr.Progress(),  # noqa: B008
    ) -> str:
        """The tab on relations, made for the first time."""
        exhibit = self.exhibit(title)
        gallery = self.gallery(exhibit, progress)
        if not isinstance(picture, pictures.Picture):
            return drawing.page(f"<p>{_no_picture(None)[0]}</p>")
        found = exhibit.bench.answers(picture.at(exhibit.bench.full))
        return show.relations(exhibit, gallery, found, self.size(exhibit, resolution))

    def disagreements(
        self,
        resolution: float,
        which: str,
        label: str,
        title: str,
        progress=gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Test images that divide the models, as HTML, and how many there are."""
        exhibit = self.exhibit(title)
        gallery = self.gallery(exhibit, progress)
        if gallery is None:
            return "", show.missing_data(exhibit)
        size = self.size(exhibit, resolution)
        index = gallery.disagreements(size, which, None if label == ANY_CLASS else label)
        items = [show.pair(gallery, int(i), size) for i in index[:SHOWN]]
        return drawing.page(drawing.pairs(items)), show.count(
            gallery, len(index), len(items), label != ANY_CLASS
        )

    def verify(
        self,
        left: pictures.Picture | None,
        right: pictures.Picture | None,
        resolution: str | float,
        framing: str,
    ) -> dict:
        """Say whether two photos show the same person.

        Args:
            left: a photo.
            right: another photo.
            resolution: pixels that both faces are reduced to.
            framing: what the photos show: "whole head, as in LFW" (half of the photo's width is
                looked at) or "face only" (all of it).
        """
        found = self._verdict(left, right, resolution, framing)
        return {
            "network": found.model,
            "resolution_px": int(resolution),
            "similarity": round(found.similarity, 6),
            "same": found.same,
            "threshold": found.threshold,
            "false_accepts_percent": found.false_accepts,
            "false_rejects_percent": found.false_rejects,
            "measured_on_pairs_of_each_kind": found.n,
            "warning": WARNING,
        }

    def _verdict(self, left, right, resolution, framing) -> Verdict:
        if left is None or right is None:
            raise HorkdError("two photos are needed: send both")
        if str(resolution) not in map(str, self.faces.sizes):
            known = ", ".join(map(str, self.faces.sizes))
            raise HorkdError(f"faces are looked at with {known} pixels: choose one of these")
        return self.faces.verify(left, right, int(resolution), framing)

    def verified(self, left: Upload, right: Upload, resolution: str, framing: str) -> str:
        """The tab on faces, as HTML."""
        for photo in (left, right):
            if isinstance(photo, HorkdError):
                return drawing.page(drawing.hint(sentence(photo)))
        if left is None or right is None:
            return drawing.page("<p>Choose two photos.</p>")
        found = self._verdict(left, right, resolution, framing)
        size = int(resolution)
        seen = [self.faces.seen(p, size, framing) for p in (left, right)]
        return show.verdict_on_faces(found, seen, size)


def _no_picture(picture: Upload) -> tuple[str, str]:
    """Words and notes where there is nothing to answer."""
    if isinstance(picture, HorkdError):
        return "", drawing.page(drawing.hint(sentence(picture)))
    return "Choose a picture.", ""


def build(
    exhibits: Sequence[Exhibit], faces: FaceBench | None, cleaning: tuple[float, float] = CLEANING
) -> gr.Blocks:
    """The page.

    Args:
        exhibits: what can be chosen among; the first is shown.
        faces: networks for faces, or None.
        cleaning: as `CLEANING`.
    """
    server = Server(exhibits, faces)
    folder = Path(get_upload_folder())
    with Page(
        server.forget,
        cleaning[0],
        title=f"horkd: {TITLE}",
        analytics_enabled=False,
        delete_cache=cleaning,
    ) as demo:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        titles = list(server.exhibits)
        models = Choice(titles, value=titles[0], label="Networks", visible=len(titles) > 1)
        with gr.Tabs():
            with gr.Tab("Picture"):
                _one_picture(demo, server, models, folder)
            with gr.Tab("Disagree") as tab:
                _disagree(server, models, tab)
            with gr.Tab("Faces"):
                _faces(server)
            with gr.Tab("About"):
                gr.Markdown(show.about(exhibits, faces))
        demo.load(None, js=DESCRIBE)
    return demo


def _one_picture(demo: gr.Blocks, server: Server, models: gr.Radio, folder: Path) -> None:
    """Picture, resolution, answers, curves, costs; and the picture's relations."""
    first = server.first
    paths = _drawn(server, folder)
    with gr.Row():
        with gr.Column(scale=4, min_width=300):
            photo = Photo(
                value=str(next(iter(paths.values()))[0][0]),
                label="Picture",
                alt_text="The picture that was chosen",
                sources=["upload", "clipboard", "webcam"],
                height=260,
                buttons=[],
            )
            _examples(models, photo, paths)
        with gr.Column(scale=5, min_width=300):
            size = Pixels(label="Resolution (pixels)", **_range(first))
            both = gr.ImageSlider(
                label="Left: as sent. Right: reduced.",
                format="png",
                buttons=["fullscreen"],
                max_height=420,
                elem_id="both",
            )
            words = gr.Markdown(elem_id="verdict")
            notes = gr.HTML(elem_id="notes")
    with gr.Tabs():
        with gr.Tab("Answers"):
            with gr.Row():
                labels = [
                    gr.Label(label=role, num_top_classes=5, min_width=210, elem_id=f"answer-{i}")
                    for i, role in enumerate(ROLES)
                ]
            figures = gr.HTML(elem_id="curves")
            table = gr.Markdown(elem_id="costs")
        with gr.Tab("Relations") as tab:
            related = gr.HTML(NOT_YET, elem_id="relations")
    outputs = [both, words, notes, *labels, figures, table, related]
    inputs = [photo, size, models]
    _shown_by_browsers(photo)
    gr.on(
        [demo.load, photo.change, size.change],
        server.answers,
        inputs,
        outputs,
        api_visibility="private",
        trigger_mode="always_last",
        show_progress="hidden",
    )
    models.change(
        lambda title: _resized(server, title), models, size, api_visibility="private"
    ).then(
        server.answers,
        inputs,
        outputs,
        api_visibility="private",
        show_progress="hidden",
    )
    tab.select(
        told(server.relations),
        inputs,
        related,
        api_visibility="private",
        concurrency_id="slow",
        concurrency_limit=1,
    )
    sent = Photo(visible=False)  # without the value that the page begins with
    gr.Button(visible=False).click(
        told(server.compare), [sent, size, models], gr.JSON(visible=False), api_name="compare"
    )


def _shown_by_browsers(photo: Photo) -> None:
    """Put a picture in place of a file that browsers do not show (HEIC, TIFF, …)."""

    def shown(picture: Upload):
        if not isinstance(picture, pictures.Picture) or picture.format in pictures.SHOWN:
            return gr.skip()
        return picture.shown()

    photo.upload(shown, photo, photo, api_visibility="private", show_progress="hidden")


def _range(bench: Bench) -> dict:
    """A slider over a bench's resolutions, at that of the smallest student."""
    reduced = ", ".join(str(s) for s in bench.reduced_sizes)
    return {
        "minimum": bench.sizes[0],
        "maximum": bench.full,
        "step": bench.sizes[1] - bench.sizes[0],
        "value": bench.reduced_sizes[0],
        "info": f"Students were trained at {reduced} pixels.",
    }


def _resized(server: Server, title: str) -> gr.Slider:
    return gr.Slider(**_range(server.exhibit(title).bench))


def _drawn(server: Server, folder: Path) -> dict[str, list[tuple[Path, str]]]:
    """Examples as files that visitors may name: title of the networks -> (file, caption) each."""
    found = {}
    for title, exhibit in server.exhibits.items():
        place = folder / "examples" / str(len(found))
        place.mkdir(parents=True, exist_ok=True)
        rows = []
        if exhibit.bench.data == "glyphs":
            characters = [c for c in _GLYPHS if c in exhibit.bench.classes]
            for i, pixels in enumerate(render(characters, 1, 0, "demo").images):
                path = place / f"character-{i}.png"
                pictures.as_image(pixels).save(path)
                rows.append((path, characters[i]))
        else:
            rows = [(Path(shutil.copy(f, place)), caption) for caption, f in EXAMPLES.items()]
        found[title] = rows
    return found


def _examples(models: gr.Radio, photo: Photo, paths: dict) -> None:
    """Pictures to click on, those of the chosen networks."""
    boxes, ours = [], set()
    for i, rows in enumerate(paths.values()):
        ours |= {_pixels(pictures.read(path)) for path, _ in rows}
        with gr.Column(visible=i == 0) as box:
            gr.Examples(
                [[str(path)] for path, _ in rows],
                [photo],
                example_labels=[caption for _, caption in rows],
                examples_per_page=len(rows),
                label="Or a drawing of ours",
                api_visibility="private",
            )
            if any(caption in EXAMPLES for _, caption in rows):
                gr.Markdown(
                    "Bicycle and keyboard were chosen because the student of 16 pixels fails on "
                    "them. Rainbow and square code are nothing that the networks know; the hint "
                    "notices only the code."
                )
        boxes.append(box)
    titles = list(paths)

    def chosen(title: str, picture: Upload) -> list:
        """The examples of these networks; a picture that is not ours stays."""
        shown = [gr.Column(visible=t == title) for t in titles]
        theirs = isinstance(picture, pictures.Picture) and _pixels(picture) not in ours
        return [*shown, gr.skip() if theirs else str(paths[title][0][0])]

    models.change(chosen, [models, photo], [*boxes, photo], api_visibility="private")


def _pixels(picture: pictures.Picture) -> bytes:
    return picture.at(32).numpy().tobytes()


def _disagree(server: Server, models: gr.Radio, tab: gr.Tab) -> None:
    """Test images that divide the models."""
    bench = server.first
    gr.Markdown(
        "**Where they disagree.** Images of the test set, sharp and as the student sees them."
    )
    with gr.Row():
        size = gr.Radio(
            bench.reduced_sizes,
            value=bench.reduced_sizes[-1],
            label="Resolution (pixels)",
            min_width=240,
        )
        which = gr.Dropdown(
            list(FILTERS), value=next(iter(FILTERS)), label="Who is right", min_width=300
        )
        label = gr.Dropdown(
            [ANY_CLASS, *bench.classes], value=ANY_CLASS, label="Class", min_width=200
        )
    words = gr.Markdown("Test images are being looked at …", elem_id="count")
    tiles = gr.HTML(elem_id="disagree")
    inputs, outputs = [size, which, label, models], [tiles, words]
    slow = {"api_visibility": "private", "concurrency_id": "slow", "concurrency_limit": 1}
    gr.on(
        [tab.select, size.input, which.input, label.input],
        told(server.disagreements),
        inputs,
        outputs,
        trigger_mode="always_last",
        **slow,
    )

    def choices(title: str) -> list:
        new = server.exhibit(title).bench
        return [
            gr.Radio(new.reduced_sizes, value=new.reduced_sizes[-1]),
            gr.Dropdown([ANY_CLASS, *new.classes], value=ANY_CLASS),
        ]

    def again(*values):
        """For other networks, unless nobody has opened this tab: it is long work at first."""
        return server.disagreements(*values) if server.galleries else (gr.skip(), gr.skip())

    models.change(choices, models, [size, label], api_visibility="private").then(
        told(again), inputs, outputs, **slow
    )


def _faces(server: Server) -> None:
    """Two photos, one person or two."""
    if server.faces is None:
        gr.Markdown(
            "No networks for faces are loaded. Name their folder as well: "
            "`python -m app --models FOLDER --models reports/faces-lfw/models`."
        )
        return
    gr.Markdown(f"**One person or two?** {WARNING}")
    with gr.Row():
        photos = [
            Photo(
                label=f"{which} photo",
                alt_text=f"The {which.lower()} photo",
                sources=["upload", "clipboard", "webcam"],
                height=260,
                buttons=[],
                min_width=240,
            )
            for which in ("First", "Second")
        ]
    with gr.Row():
        size = Choice(
            [str(s) for s in server.faces.sizes],
            value="16",
            label="Resolution of the faces (pixels)",
            min_width=300,
        )
        framing = Choice(list(FRAMINGS), value=FRAMINGS[0], label="The photos show", min_width=300)
    for photo in photos:
        _shown_by_browsers(photo)
    answer = gr.HTML(drawing.page("<p>Choose two photos.</p>"), elem_id="same")
    inputs = [*photos, size, framing]
    gr.on(
        [p.change for p in photos] + [size.change, framing.change],
        server.verified,
        inputs,
        answer,
        api_visibility="private",
        trigger_mode="always_last",
    )
    gr.Button(visible=False).click(
        told(server.verify),
        inputs,
        gr.JSON(visible=False),
        api_name="verify",
    )


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own machine: others would be fetched from elsewhere."""
    base = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base.set(  # 4.5:1 and more
        color_accent="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
