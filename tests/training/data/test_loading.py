"""Data are checked and decoded before anything is trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from senet.errors import ConfigError, DataError
from senet.training import DataConfig, TrainConfig
from senet.training.data import ImageData, load_data
from senet.training.data.class_names import stratified
from senet.training.data.dataset import Split, Stream
from senet.training.data.memory import MemoryImages
from training.tiny import coloured_image, image_folder, parquet_folder


def loaded(folder: Path, **options: object) -> ImageData:
    config = DataConfig(str(folder), **{"image_size": 8, **options})  # type: ignore[arg-type]
    return load_data(config, input_size=(3, 32, 32))


def test_small_images_are_held_as_they_are(tmp_path: Path) -> None:
    data = loaded(image_folder(tmp_path / "f", train=2, test=1))

    assert isinstance(data.train, MemoryImages)
    assert data.summary() == {
        "name": str(tmp_path / "f"),
        "train_images": 4,
        "test_images": 2,
        "validation_images": 0,
        "classes": ["blue", "red"],
        "images_per_class": {"train": {"blue": 2, "red": 2}, "test": {"blue": 1, "red": 1}},
        "image_size": [3, 8, 8],
        "left_out": [],
        "passed_over": [],
    }
    expected = torch.frombuffer(bytearray(coloured_image("red", 1).tobytes()), dtype=torch.uint8)
    assert torch.equal(data.train.images[3], expected.reshape(8, 8, 3).permute(2, 0, 1))


def test_the_size_is_that_of_the_network_unless_given(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=2, test=1)

    assert load_data(DataConfig(str(folder)), input_size=(3, 24, 16)).view.size == (3, 24, 16)
    assert load_data(DataConfig(), input_size=(3, 224, 224)).view.size == (1, 8, 8)
    assert load_data(DataConfig(image_size=12), input_size=(3, 32, 32)).view.size == (1, 12, 12)


def test_normalisation_is_that_of_the_training_images(tmp_path: Path) -> None:
    data = loaded(image_folder(tmp_path / "f"))
    batches = list(data.train_batches(TrainConfig(batch_size=24, augmentation="none"), epoch=0))
    images = torch.cat([images for images, _ in batches])

    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        images.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5
    )


def test_subset_keeps_shares_and_contains_the_smaller_one() -> None:
    labels = torch.tensor([0] * 30 + [1] * 60 + [2] * 10)
    small, large = stratified(labels, 20), stratified(labels, 50)

    assert labels[large].bincount().tolist() == [15, 30, 5]
    assert set(small.tolist()) < set(large.tolist())


def test_subset_is_trained_on_and_all_is_tested_on(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f")
    data = loaded(folder, train_images=6)

    assert (len(data.train), len(data.test)) == (6, 8)
    assert isinstance(data.train, MemoryImages)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"train_images must be at most 24, .*, got 25"):
        loaded(folder, train_images=25)


def test_classes_are_matched_by_name_not_by_number(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", colours=("blue", "green", "red"))
    shutil.rmtree(folder / "test" / "blue")
    data = loaded(folder)

    assert isinstance(data.test, MemoryImages)
    assert data.test.labels.unique().tolist() == [1, 2]  # in the test folder alone: 0, 1


def test_test_class_without_training_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", colours=("blue", "green", "red"))
    shutil.rmtree(folder / "train" / "green")

    with pytest.raises(DataError, match=r"test split .* has classes that .* not have: green"):
        loaded(folder)


def test_too_few_classes(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", colours=("red",))

    with pytest.raises(DataError, match=r"training images of 1 class \(red\).* at least 2"):
        loaded(folder)


def test_label_outside_the_classes(tmp_path: Path) -> None:
    """As in the unlabelled test splits of Hugging Face, whose labels are -1."""
    datasets = pytest.importorskip("datasets", reason="reads what Hugging Face datasets writes")

    folder = parquet_folder(tmp_path / "parquet", train=3, test=1)
    rows = datasets.Dataset.from_parquet(str(folder / "test.parquet"))
    rows.map(lambda row: {"label": -1}).to_parquet(str(folder / "test.parquet"))
    config = DataConfig(f"hfds/{folder}", root=str(tmp_path / "cache"), image_size=8)

    with pytest.raises(
        DataError, match=r"test split has the label -1, .* none of the 2 classes: blue"
    ):
        load_data(config, input_size=(3, 8, 8))


def test_empty_split(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "parquet", train=3, test=0)
    config = DataConfig(f"hfds/{folder}", root=str(tmp_path / "cache"))

    with pytest.raises(DataError, match=r"test.* is empty|no readable split 'test'"):
        load_data(config, input_size=(3, 8, 8))


def test_unreadable_image_stops_before_training(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f")
    (folder / "train" / "red" / "0003.png").write_bytes(b"")

    with pytest.raises(DataError, match="image 15 of the train split cannot be read"):
        loaded(folder)


# ---- images above 64 px


def large(folder: Path, **options: object) -> ImageData:
    return loaded(folder, **{"image_size": 72, **options})


def test_large_images_are_read_when_they_are_needed(tmp_path: Path) -> None:
    data = large(image_folder(tmp_path / "f", train=4, test=2, size=80))
    train = TrainConfig(batch_size=4, workers=0)

    assert isinstance(data.train, Split)
    first, second = (list(data.train_batches(train, epoch=epoch)) for epoch in (0, 0))
    other = list(data.train_batches(train, epoch=1))
    tested = list(data.test_batches(train))

    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first[0][0], other[0][0])
    assert [images.shape for images, _ in tested] == [(4, 3, 72, 72)]
    assert tested[0][1].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("augmentation", ["none", "crop", "crop-flip", "resize-crop"])
def test_large_images_take_every_augmentation(tmp_path: Path, augmentation: str) -> None:
    data = large(image_folder(tmp_path / "f", train=2, test=1, size=80))
    train = TrainConfig(batch_size=4, workers=0, augmentation=augmentation)

    images, _ = next(iter(data.train_batches(train, epoch=0)))
    assert images.shape == (4, 3, 72, 72)


@pytest.mark.parametrize(
    "option",
    [{"rand_augment": "rand-m9-inc1"}, {"erasing": 0.9}, {"rotation": 30}, {"pixel_jitter": 20}],
)
def test_each_augmentation_of_large_images_acts(tmp_path: Path, option: dict[str, Any]) -> None:
    data = large(image_folder(tmp_path / "f", train=2, test=1, size=80))
    train = TrainConfig(batch_size=4, workers=0)
    (plain, labels), *_ = data.train_batches(train, epoch=0)
    (changed, same), *_ = data.train_batches(replace(train, **option), epoch=0)

    assert torch.equal(labels, same)
    assert ((plain - changed).flatten(1).abs().amax(1) > 0.05).sum() >= 3  # of four images


def test_large_images_use_the_subset(tmp_path: Path) -> None:
    data = large(image_folder(tmp_path / "f", train=4, test=1), train_images=4)
    labels = [labels for _, labels in data.train_batches(TrainConfig(workers=0), epoch=0)]

    assert len(data.train) == 4
    assert torch.cat(labels).sort().values.tolist() == [0, 0, 1, 1]


def test_unreadable_large_image_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=2, test=1)
    data = large(folder)
    (folder / "test" / "red" / "1000.png").write_bytes(b"")

    for workers in (0, 1):
        with pytest.raises(
            DataError, match=r"^image 1 of the test split cannot be read.*"
        ) as error:
            list(data.test_batches(TrainConfig(workers=workers)))
        assert "\n" not in str(error.value)


def test_options_that_do_not_go_with_the_size(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=2, test=1)

    with pytest.raises(ConfigError, match="normalization 'data' needs images of at most 64 px"):
        large(folder, normalization="data")
    with pytest.raises(ConfigError, match="augmentation 'resize-crop' needs images above 64 px"):
        loaded(folder).augmentation(TrainConfig(augmentation="resize-crop"))
    with pytest.raises(ConfigError, match="erasing goes with augmentation 'resize-crop', got 'cr"):
        large(folder).augmentation(TrainConfig(augmentation="crop", erasing=0.1))


def test_the_train_and_the_test_split_may_write_accents_in_two_ways(tmp_path: Path) -> None:
    """As macOS (apart) and other systems (composed) name the same folder."""
    folder = image_folder(tmp_path / "f", train=2, test=1)
    (folder / "train" / "red").rename(folder / "train" / "\u00e9l\u00e9phant")
    (folder / "test" / "red").rename(folder / "test" / "e\u0301le\u0301phant")

    for size in (8, 72):
        data = loaded(folder, image_size=size)
        assert data.classes == ("blue", "\u00e9l\u00e9phant")
        labels = [labels for _, labels in data.test_batches(TrainConfig(workers=0))]
        assert torch.cat(labels).tolist() == [0, 1]


class Stream3:
    """A stream that says it has four images, and has three."""

    reader = SimpleNamespace(class_to_idx={"blue": 0, "red": 1})

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return iter([(coloured_image(("blue", "red")[k % 2], k, size=80), k % 2) for k in range(3)])


@pytest.mark.parametrize("size", [8, 72])
def test_a_stream_that_ends_early_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", lambda *_, **__: Stream3())

    def passed() -> list[list[Any]]:
        data, train = loaded(Path("hfids/some"), image_size=size), TrainConfig(batch_size=2)
        return [list(data.train_batches(train, epoch=epoch)) for epoch in (0, 1)]

    with pytest.warns(UserWarning, match="stream ends before image 3 of 4"):
        passes = passed()
    assert [[len(labels) for _, labels in each] for each in passes] == [
        [2, 1] if size == 72 else [2]
    ] * 2


@pytest.mark.parametrize("size", [8, 72])
def test_stream_in_memory_and_as_it_comes(tmp_path: Path, size: int) -> None:
    load_dataset = pytest.importorskip("datasets", reason="streams a data set").load_dataset

    folder, cache = parquet_folder(tmp_path / "parquet", train=4, test=2), str(tmp_path / "cache")
    load_dataset(str(folder), cache_dir=cache)
    config = DataConfig(f"hfids/{folder}", root=cache, image_size=size)
    data = load_data(config, input_size=(3, 8, 8))
    train = TrainConfig(batch_size=4)

    assert isinstance(data.train, MemoryImages if size == 8 else Stream)
    first, second = (list(data.train_batches(train, epoch=0)) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert [images.shape[0] for images, _ in first] == [4, 4]
    assert torch.cat([labels for _, labels in data.test_batches(train)]).tolist() == [0, 1, 0, 1]


def test_auto_augmentation() -> None:
    train = TrainConfig()
    digits = load_data(DataConfig(), input_size=(1, 8, 8))

    assert digits.augmentation(train) == "crop"
    assert digits.augmentation(TrainConfig(augmentation="none")) == "none"


def test_grey_images_stay_grey_in_digits_at_any_size() -> None:
    data = load_data(DataConfig(image_size=72), input_size=(3, 224, 224))
    images, _ = next(iter(data.test_batches(TrainConfig(workers=0))))

    assert images.shape[1:] == (1, 72, 72)
    assert Image.new("L", (1, 1)).mode == "L"
