"""Parquet files, tar shards and zip archives of the hub, as streams of records."""

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.values import fits
from zsrobust.datasets import Split
from zsrobust.datasets.sources.hub import HubSource, unfit
from zsrobust.datasets.sources.records import Opened, Record

IMAGES = (
    "webp",
    "png",
    "jpg",
    "jpeg",
)  #: the order in which CLIP_benchmark looks for a sample's image
LARGEST = 2**28  #: bytes of an encoded image; far more than any has
GROUP = 2**33  #: bytes of a row group of a parquet file, unpacked


def read(source: HubSource, split: Split, paths: Sequence[Path]) -> Opened:
    """Open the downloaded files of a split. Memory holds one row group of a parquet file.

    Raises ZSRobustError, here or while the records are read, that names a file which is damaged.
    """
    if not paths:
        raise ZSRobustError(f"{source.repo}: no files of the {split} split to read.")
    return _READ[source.format](source, paths)


def _parquet(source: HubSource, paths: Sequence[Path]) -> Opened:
    import pyarrow as pa
    from pyarrow import parquet

    label = source.names or source.label
    found = []
    for path in paths:
        with _whole(path):
            schema = parquet.read_schema(path)
            names = None if source.names else _class_names(schema.metadata or {}, source.label)
        if absent := {source.image, label}.difference(schema.names):
            raise unfit(
                source, f"has no column {sorted(absent)[0]!r}, but {', '.join(schema.names)}"
            )
        found.append(names)
    if any(names != found[0] for names in found):
        raise unfit(source, "has files that disagree on the class names")

    def records() -> Iterator[Record]:
        for path in paths:
            row = 0
            with _whole(path), parquet.ParquetFile(path) as file:
                for batch in batches(file):
                    images = batch.column(source.image)
                    if isinstance(images, pa.StructArray):
                        images = images.field("bytes")
                    for image, value in zip(images, batch.column(label), strict=True):
                        yield _record(
                            f"{_where(source, path)} row {row}", image.as_py(), value.as_py()
                        )
                        row += 1

    def batches(file: parquet.ParquetFile) -> Iterator[pa.RecordBatch]:
        # One iterator over the whole file would hold the dictionaries of all row groups, which is
        # all images.
        for group in range(file.num_row_groups):
            if file.metadata.row_group(group).total_byte_size > GROUP:
                raise ValueError(f"row group {group} would unpack to more than {GROUP >> 30} GB")
            yield from file.iter_batches(
                batch_size=64, row_groups=[group], columns=[source.image, label]
            )

    return Opened(found[0], records())


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str] | None:
    """Return the class names in a file of `datasets`; None if it has numbers only."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names: list[str] = features.get(label, {}).get("names") or []
    if not fits(names, list[str]):
        raise ValueError("its class names are no list of texts")
    first = int(names[0]) if names and names[0].isdecimal() else 0
    return None if names == [str(first + index) for index in range(len(names))] else names


def _tar(source: HubSource, paths: Sequence[Path]) -> Opened:
    shards = [path for path in paths if path.suffix == ".tar"]
    names = None
    for path in paths:
        if path.name == "classnames.txt":
            with _whole(path):
                names = path.read_text("utf-8").removesuffix("\n").split("\n")
        elif path.name == "nshards.txt":
            with _whole(path):
                numbers = [int(shard.stem) for shard in shards if shard.parent == path.parent]
                told = path.read_text("utf-8").strip()
            if [told, numbers] != [str(len(numbers)), list(range(len(numbers)))]:
                raise unfit(
                    source,
                    f"has shards {numbers} of the {told} that {_where(source, path)} tells of",
                )

    def records() -> Iterator[Record]:
        for path in shards:
            for key, sample in _samples(path):
                where = f"{_where(source, path)} {key}"
                image = next(
                    (sample[kind] for kind in (source.image, *IMAGES) if kind in sample), None
                )
                label = sample.get(source.label, sample.get("cls", b"")).strip()
                yield _record(
                    where, image, int(label) if label.isdigit() and len(label) < 10 else None
                )

    return Opened(names, records())


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a tar: their key, and their contents by extension."""
    key, sample = "", dict[str, bytes]()
    with _whole(path), tarfile.open(path, "r|") as archive:
        while member := archive.next():
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                continue
            name, _, extension = member.name.rpartition(".")
            if name != key and sample:
                yield key, sample
                sample = {}
            if (
                member.size + sum(map(len, sample.values())) > LARGEST
            ):  # a sparse member says, and does not hold, its bytes
                raise ValueError(f"{member.name} would unpack to more than {LARGEST >> 20} MB")
            key, sample[extension.lower()] = name, content.read()
        with path.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a damaged header")
    if sample:
        yield key, sample


def _zip(source: HubSource, paths: Sequence[Path]) -> Opened:
    pattern = re.compile(
        re.escape(source.inside.strip("/") + "/" if source.inside else "") + r"([^/]+)/([^/.][^/]*)"
    )
    found = []
    for path in paths:
        with _whole(path), zipfile.ZipFile(path) as archive:
            found += [
                (match[1], path, name)
                for name in archive.namelist()
                if (match := pattern.fullmatch(name))
            ]
    if not found:
        raise unfit(
            source, f"has no folders of classes inside {source.inside or 'the top level'!r}"
        )

    def records() -> Iterator[Record]:
        for path in paths:
            with _whole(path), zipfile.ZipFile(path) as archive:
                for label, name in sorted(
                    (label, name) for label, home, name in found if home == path
                ):
                    if archive.getinfo(name).file_size > LARGEST:
                        raise ValueError(f"{name} would unpack to more than {LARGEST >> 20} MB")
                    yield _record(f"{_where(source, path)} {name}", archive.read(name), label)

    return Opened(sorted({label for label, _, _ in found}), records())


def _where(source: HubSource, path: Path) -> str:
    """Return a file's repository and path in it; the cache holds it under `snapshots/REVISION`."""
    return f"{source.repo} {path.as_posix().rpartition(f'{source.revision}/')[2]}"


def _record(where: str, image: bytes | None, label: int | str | None) -> Record:
    if not image or not isinstance(image, bytes):
        raise ZSRobustError(f"{where} has no image.")
    if not isinstance(label, int | str) or (
        isinstance(label, int) and label < 0
    ):  # -1 says unknown
        raise ZSRobustError(f"{where} has no label.")
    return Record(where, image, label if isinstance(label, str) else int(label))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except ZSRobustError:
        raise
    except Exception as error:  # damaged files raise all kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ZSRobustError(
            f"{path} is damaged ({reason}). Delete it; the next run fetches it again."
        ) from error


_READ = {"parquet": _parquet, "tar": _tar, "zip": _zip}
