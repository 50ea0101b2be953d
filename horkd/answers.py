"""What a frozen model says of every crop of an epoch, kept on disk for the next run that asks.

Crops are drawn from (seed, epoch), so all runs of one seed and batch size show their frozen model
the same crops: KD, RKD and sixteen subsets of orders need one pass of the teacher, not sixteen. A
frozen model sees nothing of the learner, so the numbers are those it would compute again.

    runs/.frozen/<key>/<epoch>.safetensors      features and logits, in the order of the crops
                       view-<n>.safetensors     the same of a fixed view of a whole set, by image

With fixed views (`Recipe.views`) the crops don't depend on seed, order or the part of the set that
is trained on, so that three seeds and ten folds need one pass per view. Those answers are mapped
into memory rather than read, and those of a network that ran in bf16 are float16, which is finer:
four views of 50,000 images by a network of 2,048 features are 0.9 GB. They are computed in parts,
so that who is interrupted goes on from the last part.

The folder is a cache: it may be deleted at any time.
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from horkd import storage
from horkd.data.batches import Batches
from horkd.data.images import ImageSet
from horkd.errors import HorkdError
from horkd.machine import Settings
from horkd.networks.network import Output
from horkd.objectives import Frozen
from horkd.predict import chunk
from horkd.preprocess import Preprocess

#: `cache="auto"` keeps no run's answers that would take more than this; fixed views are always
#: kept.
LARGEST = 2**30
#: Images whose answers are written to one file while a view is computed.
PART = 5_000


class Remembered:
    """The answers of one epoch: read if they are there, else computed and written at its end.

    Example:
        >>> answers = Remembered(None, lambda crops: Output(crops * 2, crops))  # keeps nothing
        >>> answers(torch.ones(3)).features
        tensor([2., 2., 2.])

    Args:
        path: the epoch's file; None neither reads nor writes.
        look: the frozen model with its preprocessing.
        device: where answers are needed.
        stored: answers that are known already.
        index: int64 (N,), the place in `stored` of the answer to each crop of the epoch; None if
            they come in this order.

    Attributes:
        read: whether the answers come from the file.
    """

    def __init__(
        self,
        path: str | Path | None,
        look: Callable[[Tensor], Output],
        device: str = "cpu",
        stored: Output | None = None,
        index: Tensor | None = None,
    ) -> None:
        path = None if path is None else Path(path)
        self.path, self.look, self.device = path, look, device
        self.index = index
        self.stored = self._load() if stored is None else stored
        self.read = self.stored is not None
        self.new: list[Output] = []
        self.position = 0

    def _load(self) -> Output | None:
        return None if self.path is None else _read(self.path)

    def __call__(self, crops: Tensor) -> Output:
        """Answers to the next batch of crops, which must come in the order of the epoch."""
        start, self.position = self.position, self.position + len(crops)
        if self.stored is not None:
            part = slice(start, self.position)
            if self.index is not None:
                part = self.index[part]
            features, logits = self.stored.features[part], self.stored.logits[part]
            if features.dtype == torch.float16:  # of a view; autocast never makes float16
                features, logits = features.float(), logits.float()
            return Output(
                features.to(self.device, non_blocking=True),
                logits.to(self.device, non_blocking=True),
            )
        answer = self.look(crops)
        if self.path is not None:
            self.new.append(Output(answer.features.cpu(), answer.logits.cpu()))
        return answer

    def skip(self, count: int) -> None:
        """Leave out the answers to the first `count` crops; what is left is no whole epoch."""
        self.position += count
        if self.stored is None:
            self.path = None

    def keep(self) -> None:
        """Write what was computed; an epoch that was not finished is not kept."""
        if self.path is None or self.stored is not None:
            return
        _write(self.path, self.new)


@dataclass(frozen=True)
class FixedViews:
    """Images with a few fixed crops of each (`Batches`, `views`).

    Attributes:
        images: of the whole set, or the training images alone.
        count: views of each image.
        crop, flip: as of `Batches`.
        by_id: answers are kept by the images' ids in the whole set, for all runs on parts of it;
            else by place among the training images.
    """

    images: ImageSet
    count: int
    crop: int
    flip: bool
    by_id: bool = False


class Answers:
    """What a frozen model says of the crops that a run is trained on.

    Args:
        frozen: the model, on the device.
        preprocess: what it sees of a crop.
        settings: resolved settings of this machine.
        folder: where answers are kept for other runs; None keeps nothing.
        views: the fixed views, if the crops are such.
    """

    def __init__(
        self,
        frozen: Frozen,
        preprocess: Preprocess,
        settings: Settings,
        folder: str | Path | None = None,
        views: FixedViews | None = None,
    ) -> None:
        folder = None if folder is None else Path(folder)
        self.frozen, self.preprocess, self.settings = frozen, preprocess, settings
        self.folder, self.views = folder, views

    @property
    def keeps_views(self) -> bool:
        """Whether answers to whole views are computed ahead."""
        return self.views is not None and self.folder is not None

    def epoch(
        self,
        number: int,
        seed: int,
        maps: bool,
        batches: Batches,
        generator: torch.Generator | None = None,
    ) -> Remembered:
        """The answers of an epoch, batch by batch.

        Args:
            number: of the epoch, from 0.
            seed: of the epoch.
            maps: whether maps are needed, which are never kept.
            batches: what hands out the crops.
            generator: of the noise that the frozen model sees.
        """
        device = self.settings.device
        if self.keeps_views and not maps:
            view = number % self.views.count
            known = number >= self.views.count or self._file(view).is_file()
            order = batches.order(seed)
            index = (batches.ids[order] if self.views.by_id else order).cpu()
            found = Remembered(None, self.frozen, device, self.of_view(view), index)
            found.read = known  # else this very epoch has waited for them
            return found
        path = None if maps or self.folder is None else self.folder / f"{number}.safetensors"
        see = partial(self.preprocess, generator=generator)
        return Remembered(path, lambda crops: self.frozen(see(crops), maps), device)

    def of_view(self, number: int) -> Output:
        """The answers to a view of every image, by id or in the order of the images."""
        views, settings = self.views, self.settings
        at_a_time = chunk(self.frozen.network, self.preprocess.degradation, views.images.size)
        batches = Batches(views.images.to("cpu"), 1, views.crop, views.flip, views.count)
        noise = torch.Generator(settings.device).manual_seed(number)

        def look(first: int, last: int) -> Output:
            crops = batches.view(number, at_a_time, first, last)
            steps = -(-(last - first) // at_a_time)
            hidden = None if settings.progress else True
            features, logits = [], []
            for part in tqdm(crops, f"view {number}", steps, leave=False, disable=hidden):
                with settings.autocast():
                    answer = self.frozen(self.preprocess(part.to(settings.device), noise))
                features.append(answer.features.cpu())
                logits.append(answer.logits.cpu())
            return Output(torch.cat(features), torch.cat(logits))

        half = settings.precision == "bf16"
        return of_view(self._file(number), look, len(views.images), half)

    def _file(self, number: int) -> Path:
        return self.folder / f"view-{number}.safetensors"


def _read(path: Path) -> Output | None:
    tensors = storage.read_cache(path, "features", "logits")
    return None if tensors is None else Output(tensors["features"], tensors["logits"])


def _write(path: Path, answers: Iterable[Output]) -> None:
    answers = list(answers)
    whole = {
        "features": torch.cat([answer.features for answer in answers]),
        "logits": torch.cat([answer.logits for answer in answers]),
    }
    # a cache is no reason to lose a run
    storage.write_cache(path, whole, "the frozen model's answers")


def view_size(images: int, width: int, half: bool) -> int:
    """Bytes on disk of the answers to one fixed view.

    Args:
        images: of the whole set.
        width: numbers per image, features and logits.
        half: in float16.
    """
    return (2 if half else 4) * images * width


def keeps(settings: Settings, size: int, views: bool, largest: int = LARGEST) -> bool:
    """Whether the answers to the crops of a run are kept on disk.

    Args:
        settings: of the machine; "auto" keeps fixed views, and on a CPU what is not too large.
        size: bytes that they would take.
        views: they are of fixed views.
        largest: bytes that are not too large.
    """
    if settings.cache == "auto":
        return views or (not settings.on_cuda and size <= largest)
    return settings.cache == "on"


def free_bytes(folder: str | Path) -> int:
    """What the disk of a folder has left; the folder need not be there yet."""
    folder = Path(folder)
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.is_dir())).free


def require_space(folder: str | Path, needed: int) -> None:
    """Refuse, in one line, what the disk has no room for.

    Args:
        folder: where it is to lie; need not be there yet.
        needed: bytes. What is there already counts.

    Raises:
        HorkdError: if there is too little room.
    """
    folder = Path(folder)
    there = sum(f.stat().st_size for f in folder.iterdir()) if folder.is_dir() else 0
    free = free_bytes(folder)
    if needed - there > free:
        raise HorkdError(
            f"the frozen model's answers to fixed views take {needed / 1e9:.2f} GB in {folder}, "
            f"and the disk has {free / 1e9:.2f} GB left: make room, set HORKD_RUNS to another "
            "disk, or compute them anew in every epoch with cache off"
        )


def _half(x: Tensor) -> Tensor:
    """float16, or float32 where the numbers are too large for that."""
    return x.half() if bool((x.abs() < torch.finfo(torch.float16).max).all()) else x.float()


_VIEWS: dict[Path, Output] = {}


def of_view(
    path: str | Path, look: Callable[[int, int], Output], count: int, half: bool, part: int = PART
) -> Output:
    """The answers to one view of a whole set: read, or computed once for all runs and folds.

    Args:
        path: their file. Who comes while another process computes them waits for it.
        look: computes those to the images `first` to `last` - 1, in the order of their ids.
        count: of the images.
        half: keep float16.
        part: images whose answers are written at a time.

    Returns:
        Features (N, D) and logits (N, C), mapped into memory from the file.

    Raises:
        HorkdError: if the disk refuses.
    """
    path = Path(path)
    if path not in _VIEWS:
        with storage.locked(path.with_suffix(".lock")):
            found = _read(path)
            if found is None:
                found = _in_parts(path, look, count, half, part)
        while len(_VIEWS) >= 16:
            _VIEWS.pop(next(iter(_VIEWS)))
        _VIEWS[path] = found
    return _VIEWS[path]


def _in_parts(
    path: Path, look: Callable[[int, int], Output], count: int, half: bool, step: int
) -> Output:
    """Compute what is missing of a view, join the parts, and read the file."""
    parts = []
    for first in range(0, count, step):
        last = min(first + step, count)
        part = path.with_name(f"{path.stem}.{first}-{last}.safetensors")
        if _read(part) is None:
            answer = look(first, last)
            tensors = {"features": answer.features, "logits": answer.logits}
            if half:
                tensors = {name: _half(t) for name, t in tensors.items()}
            storage.save_tensors(part, tensors, {})
        parts.append(part)
    answers = [_read(part) for part in parts]
    whole = {
        "features": torch.cat([answer.features for answer in answers]),
        "logits": torch.cat([answer.logits for answer in answers]),
    }
    storage.save_tensors(path, whole, {})
    del answers, whole
    for part in parts:
        part.unlink(missing_ok=True)
    return _read(path)
