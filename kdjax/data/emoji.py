"""Emoji in two drawing styles, 32x32 in colour, as a tensorflow-datasets builder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kdjax.data.errors import DataError

SOURCE_DIR_VARIABLE = "KDJAX_EMOJI_DIR"
STYLES = ("google", "twitter")
VERSION = "16.0.0"
NAMES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body",
    "Smileys & Emotion", "Symbols", "Travel & Places",
)  # fmt: skip
SIDE, PITCH = 32, 34
"""Pixels of a picture, and from one to the next on a sheet, which has a margin of one."""
SPLIT_SEED, TEST_SHARE = 0, 0.25
_PACKAGES = " ".join(f"emoji-datasource-{style}@{VERSION}" for style in STYLES)
HELP = f"run `npm pack {_PACKAGES}` in a folder and name it in source_dir or {SOURCE_DIR_VARIABLE}"


class Emoji(tfds.core.GeneratorBasedBuilder):
    """3,812 emoji, 32x32 in colour, in 9 categories: 1,906 signs as two vendors draw them.

    Pictures are laid over white. Skin tones are left out, and the category of components. Both
    drawings of a sign are in the same split, a quarter of the signs of each category in the test
    split, drawn with a fixed seed. Signs follow one another in no order, the two drawings of one
    side by side. `style` is 0 for Google's drawings and 1 for Twitter's; `id` is
    the sign's row in the vendors' table, plus the number of rows for the second style.

    The pictures are Google's (Noto Emoji, Apache-2.0) and Twitter's (Twemoji, CC-BY 4.0), collected
    in the packages emoji-datasource-google and emoji-datasource-twitter, version 16.0.0.

    Args:
      source_dir: the folder with the packages' two `.tgz` files. Without it: the folder that the
        environment variable `KDJAX_EMOJI_DIR` names.
      **kwargs: as for any builder (`data_dir`, `file_format`, …).
    """

    name = "kdjax_emoji"
    VERSION = tfds.core.Version("1.0.0")
    # Only used to find a file of checksums, and by default it needs importlib_resources, which
    # tensorflow-datasets does not declare for current Pythons.
    code_path = None

    def __init__(self, *, source_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        self._source_dir = source_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=str(self.__class__.__doc__),
            features=tfds.features.FeaturesDict(
                {
                    # A plain tensor: the image feature needs TensorFlow to encode.
                    "image": tfds.features.Tensor(shape=(SIDE, SIDE, 3), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=NAMES),
                    "style": np.int32,
                    "id": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://github.com/iamcal/emoji-data",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager
        # Both packages are read before anything is written, so a bad file costs no work.
        packages = [_read(path, style) for path, style in _paths(self._source_dir)]
        tables = [table for table, _ in packages]
        if [_sign(row) for row in tables[0]] != [_sign(row) for row in tables[1]]:
            raise DataError(f"the two packages list other emoji; {HELP}")
        held_out = held_out_rows([row["category"] for row in tables[0]])
        return {
            "train": self._generate_examples(packages, held_out, False),
            "test": self._generate_examples(packages, held_out, True),
        }

    def _generate_examples(
        self, packages: Sequence[tuple[list, np.ndarray]], held_out: set[int], test: bool
    ) -> Iterator[tuple[int, dict]]:
        size = len(packages[0][0])
        # In no order, and both drawings side by side, so that a part of a split is like the whole.
        order = np.random.default_rng(SPLIT_SEED).permutation(size).tolist()
        for place, row in enumerate(order):
            for style, (table, sheet) in enumerate(packages):
                emoji, number = table[row], style * size + row
                if emoji["category"] in NAMES and (row in held_out) == test:
                    label = NAMES.index(emoji["category"])
                    image = _cell(sheet, emoji["sheet_x"], emoji["sheet_y"])
                    values = {"image": image, "label": label, "style": style, "id": number}
                    yield len(STYLES) * place + style, values


def held_out_rows(categories: Sequence[str]) -> set[int]:
    """Rows of the test split: of each category the same share, drawn with a fixed seed.

    Args:
      categories: of each row.

    Returns:
      Row numbers.
    """
    found: set[int] = set()
    for number, name in enumerate(NAMES):
        rows = [row for row, category in enumerate(categories) if category == name]
        order = np.random.default_rng([SPLIT_SEED, number]).permutation(len(rows))
        found |= {rows[place] for place in order[: round(TEST_SHARE * len(rows))]}
    return found


def _paths(source_dir: str | os.PathLike[str] | None) -> list[tuple[Path, str]]:
    folder = source_dir or os.environ.get(SOURCE_DIR_VARIABLE)
    if not folder:
        raise DataError(f"emoji: no folder is named; {HELP}")
    paths = [Path(folder).expanduser() / f"emoji-datasource-{s}-{VERSION}.tgz" for s in STYLES]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; {HELP}")
    return list(zip(paths, STYLES, strict=True))


def _read(path: Path, style: str) -> tuple[list[Mapping[str, Any]], np.ndarray]:
    """The table of emoji, and the sheet with their pictures over white."""
    from PIL import Image

    try:
        with tarfile.open(path) as package:
            table = json.load(package.extractfile("package/emoji.json"))
            name = f"package/img/{style}/sheets-clean/{SIDE}.png"
            with Image.open(io.BytesIO(package.extractfile(name).read())) as picture:
                drawn = picture.convert("RGBA")
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: damaged ({error}); {HELP}") from error
    white = Image.new("RGBA", drawn.size, "white")
    return table, np.asarray(Image.alpha_composite(white, drawn).convert("RGB"))


def _sign(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["unified"], row["category"]


def _cell(sheet: np.ndarray, x: int, y: int) -> np.ndarray:
    top, left = 1 + PITCH * y, 1 + PITCH * x
    return sheet[top : top + SIDE, left : left + SIDE]
