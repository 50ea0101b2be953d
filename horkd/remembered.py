"""What a frozen model says of every crop of an epoch, kept on disk for the next run that asks.

Crops are drawn from (seed, epoch), so all runs of one seed and batch size show their frozen model
the same crops: KD, RKD and sixteen subsets of orders need one pass of the teacher, not sixteen. A
frozen model sees nothing of the learner, so the numbers are those it would compute again.

    runs/.frozen/<key>/<epoch>.safetensors      features and logits, in the order of the crops
                       view-<n>.safetensors     the same of a fixed view of a whole set, by image

With fixed views (`Recipe.views`) the crops don't depend on seed, order or the part of the set that
is trained on, so that three seeds and ten folds need one pass per view.

The folder is a cache: it may be deleted at any time.
"""

import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from horkd import storage
from horkd.errors import HorkdError
from horkd.models import Output

#: `cache="auto"` keeps no run's answers that would take more than this.
LARGEST = 2**30


class Remembered:
    """The answers of one epoch: read if they are there, else computed and written at its end.

    Example:
        >>> answers = Remembered(None, lambda crops: Output(crops * 2, crops))  # keeps nothing
        >>> answers(torch.ones(3)).features
        tensor([2., 2., 2.])

    Args:
        path: the epoch's file; None neither reads nor writes.
        look: the frozen model with its view of crops.
        device: where answers are needed.
        stored: answers in the order of the crops, if they are known already.

    Attributes:
        read: whether the answers come from the file.
    """

    def __init__(
        self,
        path: Path | None,
        look: Callable[[Tensor], Output],
        device: str = "cpu",
        stored: Output | None = None,
    ) -> None:
        self.path, self.look, self.device = path, look, device
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
            features, logits = self.stored.features[part], self.stored.logits[part]
            return Output(
                features.to(self.device, non_blocking=True),
                logits.to(self.device, non_blocking=True),
            )
        answer = self.look(crops)
        if self.path is not None:
            self.new.append(Output(answer.features.cpu(), answer.logits.cpu()))
        return answer

    def keep(self) -> None:
        """Write what was computed; an epoch that was not finished is not kept."""
        if self.path is None or self.stored is not None:
            return
        _write(self.path, self.new)


def _read(path: Path) -> Output | None:
    if not path.is_file():
        return None
    try:
        tensors, _ = storage.load_tensors(path)
        return Output(tensors["features"], tensors["logits"])
    except (HorkdError, KeyError) as error:
        with suppress(OSError):  # another worker was faster, or the folder is read-only
            storage.set_aside(path, str(error))
        return None


def _write(path: Path, answers: Iterable[Output]) -> Output:
    answers = list(answers)
    whole = Output(
        torch.cat([answer.features for answer in answers]),
        torch.cat([answer.logits for answer in answers]),
    )
    try:
        storage.save_tensors(path, {"features": whole.features, "logits": whole.logits}, {})
    except HorkdError as error:  # a cache is no reason to lose a run
        warnings.warn(f"going on without the frozen model's answers: {error}", stacklevel=3)
    return whole


_VIEWS: dict[Path, Output] = {}


def of_view(path: Path, look: Callable[[], Iterable[Output]]) -> Output:
    """The answers to one view of a whole set: read, or computed once for all runs and folds.

    Args:
        path: their file. Who comes while another process computes them waits for it.
        look: computes them, in the order of the images' ids.
    """
    if path not in _VIEWS:
        with storage.locked(path.with_suffix(".lock")):
            found = _read(path)
            if found is None:
                found = _write(path, (Output(a.features.cpu(), a.logits.cpu()) for a in look()))
        while len(_VIEWS) >= 16:
            _VIEWS.pop(next(iter(_VIEWS)))
        _VIEWS[path] = found
    return _VIEWS[path]
