"""The cache: every image is decoded once, into uint8 squares in a memory-mapped file.

A prepared split is a folder with `pixels.npy`, `labels.npy` and `about.json`. It is written under
another name and renamed at the end, so that what is interrupted leaves nothing that looks complete.
"""

import hashlib
import io
import json
import os
import shlex
import shutil
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsrobust.core.errors import NoAnswerError, ZSRobustError
from zsrobust.core.files import cache_folder, patiently
from zsrobust.core.specs import field_types
from zsrobust.core.values import fits
from zsrobust.datasets import Cut, Images
from zsrobust.datasets.sources.records import Opened, Record
from zsrobust.results.findings import Verified

FORMAT = "zsrobust-images-1"
#: What pictures are read: the formats of the datasets, some under another's name. Pillow hands
#: others to other programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
WIDEST = 2**16  #: pixels; no JPEG has so many a side


def decode(record: Record, side: int | None, cut: Cut) -> NDArray[np.uint8]:
    """Return the picture of a record as (3, S, S): as it is where it must have `side`, else cut.

    Raises ValueError, or what Pillow raises, for what is not such a picture.
    """
    from PIL import Image

    if isinstance(record.image, np.ndarray):
        picture = Image.fromarray(record.image)
    else:
        file = record.image if isinstance(record.image, Path) else io.BytesIO(record.image)
        with Image.open(file, formats=FORMATS) as opened:
            _check_size(*opened.size)
            picture = opened.convert("RGB")
    if side is None:
        picture = _cut(picture, cut)
    elif picture.size != (side, side):
        raise ValueError(f"{picture.width}x{picture.height} pixels, not {side}x{side}")
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _check_size(width: int, height: int) -> None:
    """Raise ValueError for what is too large to be a picture, before its pixels are in memory."""
    from PIL import Image

    if max(width, height) >= WIDEST or width * height > (Image.MAX_IMAGE_PIXELS or 2**27):
        raise ValueError(f"{width}x{height} pixels are refused")


def _cut(picture: Any, cut: Cut) -> Any:
    """Return a Pillow image resized and cropped as torchvision's Resize and CenterCrop do."""
    from PIL import Image

    mode = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[
        cut.interpolation
    ]
    if cut.squash:
        return picture.resize((cut.side, cut.side), mode)
    if cut.pad is not None:
        return _padded(picture.resize(_longest(picture.size, cut.side), mode), cut.side, cut.pad)
    width, height = picture.size
    short = min(width, height)
    if short != cut.resized:
        width, height = int(cut.resized * width / short), int(cut.resized * height / short)
        _check_size(width, height)
        picture = picture.resize((width, height), mode)
    left, top = round((width - cut.side) / 2), round((height - cut.side) / 2)
    return picture.crop((left, top, left + cut.side, top + cut.side))


def _longest(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height with the longest at `side`, as open_clip's ResizeKeepRatio does."""
    ratio = max(size) / side
    return round(size[0] / ratio), round(size[1] / ratio)


def _padded(picture: Any, side: int, level: int) -> Any:
    """Return a square with the picture in its center, as open_clip's CenterCropOrPad does."""
    from PIL import Image

    square = Image.new("RGB", (side, side), (level,) * 3)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def write(
    folder: Path,
    opened: Opened,
    label_of: Callable[[Record], int | None],
    *,
    size: int,
    side: int | None,
    cut: Cut,
    about: dict[str, Any],
    progress: Callable[[int, int], None],
    replaces: bool = False,
) -> None:
    """Decode a source in parallel and write it to `folder`, whole or not at all.

    What is there already stays, unless this `replaces` it in the end; who has that open reads on.

    `label_of` returns a record's canonical label, None for one to leave out. Raises ZSRobustError
    when the number of images is not `size`, when some cannot be decoded (all are tried and
    counted), or when the disk is full.
    """
    from PIL import Image

    shape = (size, 3, cut.side if side is None else side, cut.side if side is None else side)
    temporary = _temporary(folder)
    try:
        content = hashlib.sha256(repr(shape).encode())
        labels: list[int] = []
        unreadable: list[str] = []
        wanted = (
            (record, label) for record in opened.records if (label := label_of(record)) is not None
        )
        with (temporary / "pixels.npy").open("wb") as file, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # what it warns of is refused
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for label, pixels, trouble in _decoded(wanted, side, cut):
                labels.append(label)
                if trouble:
                    unreadable.append(trouble)
                elif pixels is not None and len(labels) <= size:
                    file.write(pixels.data)
                    content.update(pixels.data)
                progress(len(labels), size)
        name = about["source"]
        if unreadable:
            raise ZSRobustError(
                f"{name}: {len(unreadable)} of {len(labels)} images cannot be read, the first is "
                f"{unreadable[0]}. "
                "Replace them; nothing was prepared."
            )
        if len(labels) != size:
            raise ZSRobustError(
                f"{name} holds {len(labels)} images; {about['dataset']} ({about['split']}) has "
                f"{size}."
            )
        array = np.array(labels, dtype=np.int64)
        content.update(array.astype("<i8").tobytes())
        np.save(temporary / "labels.npy", array)
        about = {
            "format": FORMAT,
            **about,
            "images": size,
            "cut": cut.stored if side is None else None,
        }
        (temporary / "about.json").write_text(
            json.dumps({**about, "digest": content.hexdigest()}, indent=1) + "\n"
        )
        temporary.chmod(0o755)
        if replaces:
            _discard(folder)
        _settle(temporary, folder)
    except OSError as error:
        raise ZSRobustError(
            f"Cannot prepare {about['dataset']} in {folder.parent}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(folder: Path) -> Path:
    """Return a new folder beside `folder`; folders of dead processes are removed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}.{socket.gethostname()}.*"):
            if not _alive(int(left.name.split(".")[-2])):
                shutil.rmtree(left, ignore_errors=True)
        return Path(
            tempfile.mkdtemp(
                prefix=f".{folder.name}.{socket.gethostname()}.{os.getpid()}.", dir=folder.parent
            )
        )
    except OSError as error:
        raise ZSRobustError(
            f"Cannot write in {folder.parent}: {error.strerror}. Set ZSROBUST_CACHE to another."
        ) from error


def _discard(folder: Path) -> None:
    """Remove a prepared split at once, so that nobody finds a part of it."""
    aside = _temporary(folder)
    with suppress(FileNotFoundError):  # another process did
        folder.rename(aside / "old")
    shutil.rmtree(aside, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _settle(temporary: Path, folder: Path) -> None:
    """Rename the finished folder; if another process was first, its folder stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if not is_complete(folder):
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)


def _decoded(
    wanted: Iterator[tuple[Record, int]], side: int | None, cut: Cut
) -> Iterator[tuple[int, NDArray[np.uint8] | None, str | None]]:
    """Yield label, pixels and error of each image, in order."""
    workers = os.cpu_count() or 1
    waiting: deque[tuple[int, str, Future[NDArray[np.uint8]]]] = deque()

    def finish() -> tuple[int, NDArray[np.uint8] | None, str | None]:
        label, where, future = waiting.popleft()
        try:
            return label, future.result(), None
        except Exception as error:  # Pillow raises all kinds for damaged files
            return label, None, f"{where} ({str(error) or type(error).__name__})"

    with ThreadPoolExecutor(workers) as pool:
        try:
            for record, label in wanted:
                waiting.append((label, record.where, pool.submit(decode, record, side, cut)))
                if len(waiting) >= 4 * workers:
                    yield finish()
            while waiting:
                yield finish()
        finally:
            pool.shutdown(cancel_futures=True)


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a prepared split."""
    return (folder / "about.json").is_file()


def read_about(folder: Path) -> dict[str, Any]:
    """Return what is known of a prepared split; raises ZSRobustError if it is damaged."""
    try:
        about = json.loads(patiently(Path.read_text, folder / "about.json"))
        if about["format"] != FORMAT:
            raise ValueError("another format")
        return dict(about)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ZSRobustError(
            f"{folder} is damaged ({error}). Delete it, and it is prepared again."
        ) from None


def digest_of(folder: Path) -> str:
    """Return the digest of all images as stored now; raises ZSRobustError as `read` does."""
    try:
        return replace(read(folder), known_digest=None).digest
    except OSError as error:
        raise ZSRobustError(
            f"{folder} is damaged ({error}). Delete it, and it is prepared again."
        ) from None


def fingerprint(place: Path, parts: Iterable[str] = (".",)) -> str:
    """Return the sha256 of the paths, sizes and times of a folder's files.

    `parts` are the files and folders of it that count.
    """
    content = hashlib.sha256()
    for part in parts:
        for root, folders, files in os.walk(place / part, followlinks=True):
            folders.sort()
            for name in sorted(files):
                _stamp(content, Path(root, name), place)
        if (place / part).is_file():
            _stamp(content, place / part, place)
    return content.hexdigest()


def _stamp(content: Any, path: Path, place: Path) -> None:
    with suppress(FileNotFoundError):  # a link to nothing, or gone this moment
        about = path.stat()
        told = f"{path.relative_to(place)}\0{about.st_size} {about.st_mtime_ns}\0"
        content.update(told.encode("utf-8", "surrogateescape"))


def read(folder: Path) -> Images:
    """Return the images of a prepared split; raises ZSRobustError if it is damaged.

    Raises NoAnswerError if it was not reached.
    """
    about = read_about(folder)
    try:
        load = partial(np.load, allow_pickle=False)
        pixels = patiently(partial(load, mmap_mode="r"), folder / "pixels.npy")
        labels = patiently(load, folder / "labels.npy")
        if len(pixels) != about["images"] or len(labels) != about["images"]:
            raise ValueError("another number of images")
        cut = None if about["cut"] is None else Cut(**about["cut"])
        if (pixels.dtype, labels.dtype.kind) != (np.uint8, "i") or pixels.shape != (
            len(labels),
            3,
            *[pixels.shape[-1]] * 2,
        ):
            raise ValueError("its arrays do not fit together")
        if cut and not all(
            fits(getattr(cut, name), kind) for name, kind in field_types(cut).items()
        ):
            raise ValueError("its cut is none")
        if not fits(about["digest"], str):
            raise ValueError("its digest is none")
        return Images(pixels=pixels, labels=labels, cut=cut, known_digest=about["digest"])
    except NoAnswerError:
        raise
    except Exception as error:  # a damaged header raises all kinds
        raise ZSRobustError(
            f"{folder} is damaged ({error}). Delete it, and it is prepared again."
        ) from None


def verify_prepared(found: Verified) -> None:
    """Read every prepared image, and add what is not as it was prepared to `found`.

    Raises NoAnswerError for images that were not reached.
    """
    for folder in sorted((cache_folder() / "prepared").glob("*")):
        if not is_complete(folder) or folder.name.startswith("."):
            continue
        found.prepared += 1
        try:
            whole = digest_of(folder) == read_about(folder)["digest"]
        except NoAnswerError:
            raise
        except (ZSRobustError, KeyError):
            whole = False
        if not whole:
            found.find(
                folder,
                "not the images that were prepared",
                f"rm -r {shlex.quote(str(folder))}, and run again",
            )
