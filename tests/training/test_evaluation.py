"""`senet eval` and `senet predict`: what networks are shown, and what comes out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from senet.analysis import proportion_interval
from senet.cli.commands import app
from senet.cli.evaluate import _networks, configured_data
from senet.errors import ConfigError, DataError, UnknownNameError
from senet.models import create_model
from senet.training import DataConfig
from senet.training.data import Crops, View, open_split
from senet.training.evaluation import evaluate, predict, summary
from senet.training.trained import Trained, load_run
from training.tiny import image_folder


def invoked(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_evaluation_is_the_test_of_the_training(run: Path, tmp_path: Path) -> None:
    trained = load_run(run)
    evaluation, unreadable = evaluate([trained], open_split(DataConfig(), training=False))
    result = summary(evaluation)
    told = json.loads((run / "run.json").read_text())
    last = told["epochs"][-1]

    assert told["tested"] == {name: result[name] for name in ("per_class", "confusion")}
    assert result["top1"]["proportion"] == last["test_accuracy"]
    assert result["top5"]["proportion"] == last["test_top5"]
    correct = round(last["test_accuracy"] * 599)
    assert result["top1"]["low"] == proportion_interval(correct, 599).low
    assert len(unreadable) == 0
    per_class = result["per_class"].values()
    assert sum(each["n"] for each in per_class) == 599
    assert sum(each["proportion"] * each["n"] for each in per_class) == pytest.approx(correct)
    torch.testing.assert_close(evaluation.scores.sum(1), torch.ones(599))


def test_eval_and_predict_on_the_command_line(run: Path, tmp_path: Path) -> None:
    shown = invoked("eval", str(run), "--device", "cpu", "--out", str(tmp_path))
    assert "top-1" in shown
    assert "95 % interval" in shown
    result = json.loads((tmp_path / "eval.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "predictions.csv").read_text())))
    assert len(rows) == result["images"] == 599
    right = sum(row["label"] == row["class1"] for row in rows)
    assert right / 599 == result["top1"]["proportion"]

    digit = tmp_path / "digit.png"
    open_split(DataConfig(), training=False).image(0).save(digit)  # type: ignore[attr-defined]
    line = invoked("predict", str(digit), "--run", str(run), "--top", "2")
    assert line.startswith(f"{digit}: {rows[0]['class1']} ")
    best = json.loads(invoked("predict", str(digit), "--run", str(run), "--json"))
    assert next(iter(best[str(digit)])) == rows[0]["class1"]


def test_a_file_of_weights_by_the_name_of_the_network(tmp_path: Path) -> None:
    """Two classes, ImageNet's normalisation; the expected scores are computed here."""
    folder = image_folder(tmp_path / "f", train=1, test=4, size=40, colours=("blue", "red"))
    net = create_model("resnet20", num_classes=2)
    for module in net.modules():  # statistics that tell images apart
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    net.linear.weight.data.mul_(0.02)  # type: ignore[union-attr]
    torch.save(net.state_dict(), tmp_path / "w.pth")
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    (folder / "test" / "red" / "._a.png").write_bytes(b"Mac OS X")
    data = ["--data", str(folder), "--device", "cpu", "--model", "resnet20"]
    given = ["--classes", "2", "--normalization", "imagenet", "--crop", "32", "--resize", "36"]
    files = [str(tmp_path / name) for name in ("w.pth", "w.safetensors")]
    for method in ("single", "ten"):
        weights = ["--weights", files[0], "--weights", files[1], "--method", method]
        shown = invoked("eval", *weights, *data, *given, "--out", str(tmp_path / method))
        assert "passed over in test: 1 hidden" in shown
    expected = {}
    for path in sorted((folder / "test").rglob("[0-9]*.png")):
        x = torch.from_numpy(np.array(Image.open(path).resize((36, 36), 2))).movedim(-1, 0)
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        x = (x / 255 - mean) / std
        places = [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
        crops = torch.stack([x[:, top : top + 32, left : left + 32] for top, left in places])
        with torch.no_grad():
            scores = net.eval()(torch.cat([crops, crops.flip(-1)])).softmax(1)
        expected[f"{path.parent.name}/{path.name}"] = {"single": scores[0], "ten": scores.mean(0)}
    for method in ("single", "ten"):
        text = (tmp_path / method / "predictions.csv").read_text()
        for row in csv.DictReader(io.StringIO(text)):
            score = expected[row["image"]][method][("blue", "red").index(row["class1"])]
            assert float(row["score1"]) == pytest.approx(score.item(), rel=1e-4)

    for wrong, message in (
        (given[2:], "10 classes were assumed"),
        (given[:2], "does not say what images it expects; say it by --normalization imagenet"),
        ([*given[:2], "--normalization", "data"], "must be 'imagenet' or 'imagenet-mean', got"),
    ):
        result = CliRunner().invoke(app, ["eval", "--weights", files[0], *data, *wrong])
        assert message in str(result.exception)
    thousand = create_model("resnet20", num_classes=1000)
    torch.save(thousand.state_dict(), tmp_path / "k.pth")
    wide = ["--model", "resnet20", "--weights", str(tmp_path / "k.pth"), "--classes", "1000"]
    wide += given[2:]
    result = CliRunner().invoke(app, ["eval", *wide, "--data", str(folder)])
    assert "resnet20 gives 1000 scores, the images have 2 classes" in str(result.exception)
    line = invoked("predict", str(path), *wide, "--top", "1000")
    assert "goldfish, Carassius auratus (1) 0." in line
    twice = CliRunner().invoke(app, ["predict", str(path), *wide, *wide[2:4]])
    assert "predict takes one network, got 2" in str(twice.exception)


def test_the_classes_of_weights_are_asked_for_by_the_option(tmp_path: Path) -> None:
    torch.save(create_model("resnet20", num_classes=2).state_dict(), tmp_path / "w.pth")
    given = ["predict", "x.png", "--model", "resnet20", "--weights", str(tmp_path / "w.pth")]
    for classes, message in (
        ([], "10 classes were assumed, other numbers are given by --classes"),
        (["--classes", "3"], "--classes was 3: give the number of classes of the weights"),
    ):
        result = CliRunner().invoke(app, [*given, *classes])
        assert message in str(result.exception)
        assert "head=False" not in str(result.exception)


def test_the_images_of_a_folder_are_named(run: Path, tmp_path: Path) -> None:
    split = open_split(DataConfig(), training=False)
    (tmp_path / "more").mkdir()
    paths = [tmp_path / "2.png", tmp_path / "10.png", tmp_path / "more" / "1.png"]
    for position, path in enumerate(paths):
        split.image(position).save(path)  # type: ignore[union-attr]
    (tmp_path / "notes.txt").touch()
    lines = invoked("predict", str(tmp_path), "--run", str(run), "--top", "1").splitlines()
    alone = invoked("predict", *map(str, paths), "--run", str(run), "--top", "1").splitlines()
    assert lines.pop(0) == f"passed over in {tmp_path}: 1 of no image format (.txt 1)"
    assert lines == alone
    (tmp_path / "none").mkdir()
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "none"), "--run", str(run)])
    assert str(result.exception) == f"{tmp_path / 'none'} holds no images"


def test_images_of_many_kinds_and_one_that_cannot_be_read(run: Path, tmp_path: Path) -> None:
    """Patterns, names on the standard input; CSV and JSON say the same as the lines."""
    split = open_split(DataConfig(), training=False)
    for position in range(3):
        split.image(position).save(tmp_path / f"{position}.png")  # type: ignore[union-attr]
    (tmp_path / "1.png").write_bytes(b"broken")
    names = [str(tmp_path / f"{position}.png") for position in range(3)]

    def predicted(*given: str, text: str | None = None) -> str:
        call = ["predict", *given, "--run", str(run), "--top", "2"]
        answer = CliRunner().invoke(app, call, input=text)
        assert answer.exit_code == 1
        assert answer.stderr.startswith(f"{names[1]} cannot be read: UnidentifiedImageError")
        return answer.stdout

    lines = predicted(*names).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [names[0], names[2]]
    assert predicted(str(tmp_path / "*.png")).splitlines() == lines
    assert predicted("-", text="\n".join(names)).splitlines() == lines
    answers = json.loads(predicted(*names, "--json"))
    rows = list(csv.DictReader(io.StringIO(predicted(*names, "--csv"))))
    for row, line in zip(rows, lines, strict=True):
        best = list(answers[row["image"]].items())
        text = ", ".join(f"{name} {score:.3f}" for name, score in best)
        assert line == f"{row['image']}: {text}"
        assert (row["class2"], float(row["score2"])) == (
            best[1][0],
            pytest.approx(best[1][1], 1e-5),
        )
    nothing = CliRunner().invoke(app, ["predict", "gone*.png", "--run", str(run)])
    assert "no file is called gone*.png" in str(nothing.exception)


@pytest.mark.parametrize("command", ["train", "compare", "ablate", "export", "eval"])
def test_a_place_that_cannot_be_written_is_said_first(
    command: str, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "x"
    given = {
        "export": [str(run), "--out", str(out / "net.pt2")],
        "eval": [str(run), "--data", str(tmp_path), "--out", str(out)],
    }.get(command, ["--data", str(tmp_path), "--out", str(out)])
    result = CliRunner().invoke(app, [command, *given])
    assert f"must be a folder that can be written to, {out} gives: Not a directory" in (
        str(result.exception)
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_renamed_class_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=1, test=1, colours=("blue", "green"))
    (folder / "test" / "green").rename(folder / "test" / "leaf")
    view = View((3, 8, 8), (0.0,) * 3, (1.0,) * 3, None, 1.0)
    mean = Trained("mean", Mean().eval(), view, ("blue", "green"))
    with pytest.raises(
        DataError,
        match="class leaf of the test split is none of the 2 classes: blue, green; the split "
        "has no class green; rename",
    ):
        evaluate([mean], open_split(DataConfig(str(folder)), training=False))


def test_no_image_can_be_read(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=1, test=1)
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(b"")
    mean = Trained("mean", Mean().eval(), View((3, 8, 8), (0.0,) * 3, (1.0,) * 3, None, 1.0))
    with pytest.raises(DataError, match="no image of the test split can be read"):
        evaluate([mean], open_split(DataConfig(str(folder)), training=False), max_bad_images=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval"], "give folders of runs, or --model with --weights"),
        (["eval", "x", "--classes", "2"], "--classes must come with --model, got a run"),
        (["eval", "gone"], "gone holds no run of senet train that can be read"),
        (["eval", "x", "--method", "two"], "unknown method 'two'"),
        (["eval", "x", "--scales", "8,x", "--method", "dense"], "--scales must be numbers"),
        (["eval", "x", "--scales", "8"], "method 'dense' and scales go together"),
        (["predict", "gone.png", "--model", "resnet20"], "give folders of runs, or --model"),
        (["predict", "gone.png", "--top", "-1"], "--top must be at least 1, got -1"),
        (["predict", "gone.png", "--top", "0"], "--top must be at least 1, got 0"),
        (["train", "--set", "lr=abc"], "lr must be a positive number, got 'abc'"),
        (["train", "--set", "momentum=abc"], "momentum must be a number in [0, 1), got 'abc'"),
        (["train", "--data", "nophotos"], "; there is no folder nophotos either"),
        (["ablate", "--tables", "ten"], "--tables must be numbers such as 10,12-14"),
        (["train", "--set", "lr"], "--set takes KEY=VALUE"),
        (["train", "--save-every", "0"], "save_every must be a whole number of at least 1, got 0"),
        (["train", "--devices", "0"], "devices must be a whole number of at least 1, got 0"),
        (["compare", "--batch-size", "0"], "batch_size must be a whole number of at least 1"),
        (["compare", "--workers", "-3"], "workers must be a whole number of at least 0, or None"),
        (["compare", "--set", "lrr=1"], "unknown setting 'lrr'; did you mean: lr"),
        (["ablate", "--set", "seed=99999999999999999999"], "below 2**63, got 9999"),
        (["plan", "resnet20", "--set", "squeeze=mean"], "unknown squeeze 'mean'"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, (ConfigError, DataError, UnknownNameError)), result.output
    assert message in str(result.exception)


def test_options_of_the_data_change_the_run_s_own() -> None:
    given = {"data.test_split": "train", "data.image_key": "img"}
    nets = [SimpleNamespace(data=None), SimpleNamespace(data=DataConfig("photos", label_key="y"))]
    assert configured_data(nets, given).data == DataConfig(
        "photos", test_split="train", image_key="img", label_key="y"
    )
    assert configured_data(nets, {"data.name": "other", **given}).data == DataConfig(
        "other", test_split="train", image_key="img"
    )
    with pytest.raises(
        ConfigError, match="published weights and exported files say nothing of data"
    ):
        configured_data(nets[:1], given)


def test_networks_of_several_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    load = "senet.training.trained.load_{}"
    monkeypatch.setattr(load.format("written"), lambda source, **_: source)
    monkeypatch.setattr(load.format("published_network"), lambda name, file, **_: f"{name}:{file}")
    files = ["a", "b"]
    assert _networks(["r"], ["x", "y"], files, None, None) == ["r", "x:a", "y:b"]
    assert _networks(None, ["x"], files, None, None) == ["x:a", "x:b"]
    with pytest.raises(ConfigError, match=r"once for each of the 3 --weights, got 2"):
        _networks(None, ["x", "y"], [*files, "c"], None, None)


class Mean(nn.Module):
    """Scores are the mean of the image, and its left half's: what it was shown can be told."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x[..., : x.shape[-1] // 2].mean((1, 2, 3))], 1)


VIEW = View((3, 8, 8), (0.0,) * 3, (1.0,) * 3, None, 0.8)


def looked(image: Image.Image, crops: Crops) -> list[torch.Tensor]:
    return crops.transform(VIEW)(image)


def test_crops_are_where_they_should_be() -> None:
    """An image whose red is the column and whose green is the row."""
    image = Image.new("RGB", (20, 10))
    image.putdata([(x * 10, y * 10, 0) for y in range(10) for x in range(20)])

    (single,) = looked(image, Crops())
    assert single.shape == (1, 3, 8, 8)  # shorter side 10, centre 8
    assert (single[0, 0, 0, 0] * 255 / 10).round() == 6
    assert (single[0, 1, 0, 0] * 255 / 10).round() == 1
    (ten,) = looked(image, Crops("ten"))
    corners = (ten[:, :2, 0, 0] * 255 / 10).round().int().tolist()
    assert corners[:5] == [[0, 0], [12, 0], [0, 2], [12, 2], [6, 1]]
    assert corners[5:] == [[19, 0], [7, 0], [19, 2], [7, 2], [13, 1]]
    dense = looked(image, Crops("dense", scales=(10, 20)))
    assert [tuple(part.shape) for part in dense] == [(2, 3, 10, 20), (2, 3, 20, 40)]
    assert torch.equal(dense[0][1], dense[0][0].flip(-1))
    assert looked(image, Crops(crop=5, resize=10))[0].shape == (1, 3, 5, 5)
    bicubic = View((3, 8, 8), (0.0,) * 3, (1.0,) * 3, None, 0.8, "bicubic")
    edge = Image.fromarray(np.repeat(np.array([[0, 0, 0, 255, 255, 255]], np.uint8), 6, 0))
    (soft,), (sharp,) = (Crops(resize=12).transform(v)(edge) for v in (VIEW, bicubic))
    assert (soft - sharp).abs().max() > 0.02
    with pytest.raises(ConfigError, match="crop must be at most resize, 4, got 5"):
        Crops(crop=5, resize=4)


def test_scores_are_the_mean_over_images_and_networks() -> None:
    image = Image.new("RGB", (12, 10))
    image.putdata([(x * 20, 0, 0) for _ in range(10) for x in range(12)])
    view = View((3, 8, 8), (0.0,) * 3, (1.0,) * 3, None, 0.8)
    trained = Trained("mean", Mean().eval(), view, ("whole", "left"))
    (shown,) = looked(image, Crops("ten"))

    scores = dict(predict(trained, [image], crops=Crops("ten"))[0])
    expected = Mean()(shown).softmax(1).mean(0)
    assert scores["whole"] == pytest.approx(expected[0].item())
    split = open_split(DataConfig(), training=False)
    grey = View((1, 8, 8), (0.0,), (1.0,), None, 1.0)
    one = Trained("a", Mean().eval(), grey, tuple("0123456789"))
    with pytest.raises(ConfigError, match="must have the same classes"):
        evaluate([one, trained], split)


def test_ensemble_is_the_mean_of_the_scores(run: Path) -> None:
    runs = [load_run(run), load_run(run)]
    with torch.no_grad():  # another network
        runs[1].net.get_parameter("linear.weight").neg_()
    split = open_split(DataConfig(), training=False)
    alone = [evaluate([each], split)[0].scores for each in runs]

    both, _ = evaluate(runs, split, batch_size=100)
    assert not torch.allclose(*alone, atol=0.1)
    torch.testing.assert_close(both.scores, (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-5)
