import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdjax.data import DataError, emoji, load

REAL = os.environ.get(emoji.SOURCE_DIR_VARIABLE)
CATEGORIES = [*emoji.NAMES, "Component"] * 4


def sheet(colour):
    """Forty cells in eight columns: a half-transparent square each, its red the number."""
    cells = np.zeros((5 * emoji.PITCH, 8 * emoji.PITCH, 4), np.uint8)
    for number in range(40):
        y, x = divmod(number, 8)
        top, left = 1 + emoji.PITCH * y, 1 + emoji.PITCH * x
        cells[top : top + emoji.SIDE, left : left + emoji.SIDE] = (6 * number, colour, 0, 255)
        cells[top, left] = (0, 0, 0, 0)
    return cells


def write_package(folder, style, colour, names=CATEGORIES):
    table = [
        {"unified": f"{i:X}", "category": name, "sheet_x": i % 8, "sheet_y": i // 8}
        for i, name in enumerate(names)
    ]
    picture = io.BytesIO()
    Image.fromarray(sheet(colour)).save(picture, "PNG")
    files = {
        "package/emoji.json": json.dumps(table).encode(),
        f"package/img/{style}/sheets-clean/32.png": picture.getvalue(),
    }
    path = folder / f"emoji-datasource-{style}-{emoji.VERSION}.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "packages"
    folder.mkdir()
    write_package(folder, "google", 100)
    write_package(folder, "twitter", 200)
    return folder


def both(source, data_dir):
    return [
        load("emoji", s, source_dir=source, data_dir=data_dir).arrays for s in ("train", "test")
    ]


def test_pictures_labels_and_styles_belong_together(source, tmp_path):
    train, test = both(source, tmp_path / "data")
    assert (len(train["id"]), len(test["id"])) == (54, 18)
    for part in (train, test):
        row = part["id"] % 40
        np.testing.assert_array_equal(part["style"], part["id"] // 40)
        np.testing.assert_array_equal(part["image"][:, 5, 5, 0], 6 * row)
        np.testing.assert_array_equal(part["image"][:, 5, 5, 1], 100 + 100 * part["style"])
        assert (part["image"][:, 0, 0] == 255).all()  # transparent is white
        assert [CATEGORIES[i] for i in row] == [emoji.NAMES[label] for label in part["label"]]


def test_both_drawings_of_a_sign_are_in_one_split(source, tmp_path):
    train, test = both(source, tmp_path / "data")
    assert not set(train["id"] % 40) & set(test["id"] % 40)
    for part in (train, test):
        np.testing.assert_array_equal(part["id"][::2] + 40, part["id"][1::2])
    np.testing.assert_array_equal(np.bincount(test["label"]), 2)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv(emoji.SOURCE_DIR_VARIABLE, raising=False)
    with pytest.raises(DataError, match="npm pack emoji-datasource-google@16"):
        load("emoji", "train", data_dir=tmp_path / "data")
    with pytest.raises(DataError, match=r"google-16\.0\.0\.tgz: no such file; run `npm pack"):
        load("emoji", "train", source_dir=tmp_path, data_dir=tmp_path / "data")


def test_a_damaged_package_is_named(source, tmp_path):
    path = write_package(source, "twitter", 200)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"twitter-16\.0\.0\.tgz: damaged"):
        load("emoji", "train", source_dir=source, data_dir=tmp_path / "data")


def test_packages_of_other_emoji_are_refused(source, tmp_path):
    write_package(source, "twitter", 200, CATEGORIES[::-1])
    with pytest.raises(DataError, match="list other emoji"):
        load("emoji", "train", source_dir=source, data_dir=tmp_path / "data")


@pytest.mark.skipif(
    not REAL or not Path(REAL).is_dir(),
    reason=f"the packages of emoji are not here; {emoji.HELP}",
)
def test_the_real_packages(tmp_path):
    train, test = (load("emoji", s, data_dir=tmp_path) for s in ("train", "test"))
    assert (train.size, test.size, train.num_classes) == (2860, 952, 9)
    assert np.bincount(test.arrays["label"]).tolist() == [42, 80, 136, 66, 132, 192, 84, 112, 108]
    assert 100 < train.arrays["image"].mean() < 240
