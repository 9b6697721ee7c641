"""One split of labelled images, alike whatever is behind it: read one by one, or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

from PIL import Image

from senet.errors import DataError
from senet.training.data.image_files import opened_image

__all__ = ["IndexedSplit", "Split", "StreamSplit", "class_names", "first_line"]


class Split(ABC):
    """The images of one split.

    Attributes:
        name: of the split.
        classes: names of the classes, label k is classes[k]; empty where the data do not say.
    """

    name: str
    classes: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Image.Image, Any]]:
        """Yield image and label, in a fixed order."""


@final
class IndexedSplit(Split):
    """Images that can be read one by one, with labels that are known before.

    Args:
        name: of the split.
        classes: see `Split`.
        labels: one for each image.
        read: opens the image at an index (anything that PIL opens, or a PIL image).
        filename: of the image at an index, where it has one.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        labels: Sequence[Any],
        read: Callable[[int], Any],
        filename: Callable[[int], Any] | None = None,
    ) -> None:
        self.name, self.classes, self.labels = name, tuple(classes), list(labels)
        self._read, self._filename = read, filename

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Image.Image, Any]]:
        return ((self.image(index), label) for index, label in enumerate(self.labels))

    def image(self, index: int) -> Image.Image:
        """Return the image, in RGB or grey."""
        try:
            opened = self._read(index)
            if isinstance(opened, Image.Image):
                return opened_image(opened)
            with opened:
                return opened_image(opened)
        except Exception as error:  # readers and decoders raise anything
            name = self.named(index)
            raise DataError(
                f"image {index} of the {self.name} split cannot be read: "
                f"{'' if name == str(index) else f'{name}: '}{first_line(error)}"
            ) from error

    def named(self, index: int) -> str:
        """Return the image's name: its file's, or its number where it has none."""
        try:
            name = self._filename(index) if self._filename else None
        except Exception:  # noqa: BLE001 - a name in a message is not worth another error
            name = None
        return str(name or index)


@final
class StreamSplit(Split):
    """Images that come as a stream, in shards.

    Args:
        name: of the split.
        open_stream: opens timm's dataset, for training in an order that depends on the seed, or
            (None) in the fixed order.
    """

    def __init__(self, name: str, open_stream: Callable[[int | None], Any]) -> None:
        self.name, self._open = name, open_stream
        dataset = open_stream(None)
        self.classes = class_names(getattr(dataset.reader, "class_to_idx", None))
        self._count = len(dataset)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Image.Image, Any]]:
        return iter(self._open(None))

    def shuffled(self, seed: int) -> Any:
        """Return the stream of a training epoch, a timm dataset."""
        return self._open(seed)


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line with its type."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".removesuffix(": ")


def class_names(class_to_index: dict[Any, int] | None) -> tuple[str, ...]:
    """Return the names of the classes in the order of their numbers."""
    return tuple(str(name) for name in sorted(class_to_index or {}, key=(class_to_index or {}).get))  # type: ignore[arg-type]
