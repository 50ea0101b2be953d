"""Ten drawings for visitors who have no picture at hand: no photographs, no data-set images."""

from pathlib import Path

_CAPTIONS = (
    "a sunflower",
    "a rocket",
    "a pear",
    "an orange",
    "a mushroom",
    "a plain",
    "a bicycle",
    "a keyboard",
    "a rainbow",
    "a square code",
)
#: Caption -> file. All but the last two show the class of CIFAR-100 that their file is named by.
EXAMPLES: dict[str, Path] = {
    caption: Path(__file__).with_name(f"{caption.split(' ', 1)[1].replace(' ', '-')}.png")
    for caption in _CAPTIONS
}
