"""What images the weights expect comes with them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import senet
from senet.errors import DataError, InputError
from senet.models.weights import CAFFE, IMAGENET, Preprocessing, preprocessing
from senet.models.weights.preprocess import CIFAR, remember


def test_the_authors_images() -> None:
    """RGB in [0, 1] with this mean and deviation is RGB in 0..255 minus (123, 117, 104)."""
    assert pytest.approx((123, 117, 104)) == tuple(255 * m for m in CAFFE.mean)
    assert tuple(255 * s for s in CAFFE.std) == (1, 1, 1)
    image = Image.fromarray(np.full((256, 300, 3), (200, 100, 50), dtype=np.uint8))

    pixels = CAFFE.transform()(image)

    assert pixels.shape == (3, 224, 224)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([77.0, -17.0, -54.0]).reshape(3, 1, 1).expand(3, 224, 224)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-4)


def test_the_shorter_side_is_resized_and_the_middle_cut_out() -> None:
    ramp = np.zeros((128, 512, 3), dtype=np.uint8)
    ramp[:, 256:] = 255  # black on the left, white on the right
    pixels = Preprocessing((0, 0, 0), (1, 1, 1), crop=64, resize=64).transform()(
        Image.fromarray(ramp)
    )

    assert pixels.shape == (3, 64, 64)
    assert pixels[:, :, :30].max() == 0
    assert pixels[:, :, 34:].min() == 1


def test_small_images_are_not_resized() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    pixels = CIFAR.transform()(image)
    raw = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(pixels, (raw - mean) / std)


def test_a_network_of_timm_says_itself() -> None:
    with torch.device("meta"):
        model = timm.create_model("seresnet50")
    declared = preprocessing(model)
    assert (declared.mean, declared.crop, declared.interpolation) == (IMAGENET.mean, 224, "bicubic")
    assert declared.resize == int(224 / model.pretrained_cfg["crop_pct"])

    remember(model, CAFFE)

    assert preprocessing(model) == CAFFE
    assert timm.data.resolve_model_data_config(model)["mean"] == CAFFE.mean
    with torch.device("meta"):
        fresh = timm.create_model("seresnet50")
    assert fresh.pretrained_cfg["mean"] == IMAGENET.mean  # the others are as they were


def test_random_weights_expect_nothing_known() -> None:
    with pytest.raises(InputError, match="what images this Linear expects is not known"):
        senet.preprocessing(nn.Linear(1, 1))


def test_as_fields_and_back() -> None:
    assert Preprocessing.from_dict(CAFFE.to_dict()) == CAFFE
    with pytest.raises(DataError, match=r"a preprocessing must have the fields \['mean', 'std'"):
        Preprocessing.from_dict({"mean": [1], "sdt": [1]})
