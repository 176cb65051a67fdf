"""Copies of datasets in repositories of the Hugging Face hub: which files, fetched, verified, and read as a stream.

A copy is pinned to a commit. Files lie in the cache of huggingface_hub, whose HF_HOME, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE work as everywhere; beside them we keep the listing of the repository, and which files we verified.
"""

import hashlib
import json
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zsrobust.datasets import Split
from zsrobust.datasets.records import Opened, Record
from zsrobust.network import Unreachable
from zsrobust.registry import ZSRobustError

PATIENCE = 5.0  #: seconds that the hub has to answer at all, before anything is asked of it that it may retry
IMAGES = ("webp", "png", "jpg", "jpeg")  #: the order in which CLIP_benchmark looks for a sample's image

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A copy of a dataset in a repository of the hub, at a pinned revision."""

    repo: str
    revision: str  #: a full commit
    format: Literal["parquet", "tar", "zip"]
    test: tuple[str, ...] = ()  #: the repository's splits that make our test split, in this order; zip: its files
    train: tuple[str, ...] = ()
    image: str = "image"  #: parquet: column of the image, struct<bytes, path> or binary
    label: str = "label"  #: parquet: column of the label, an integer or bool; tar: its extension, "cls" if not given
    names: str | None = None  #: parquet: column that holds the class name of every row, which is the label then
    inside: str = ""  #: zip: folder inside the archive that holds one folder a class
    order: Literal["canonical"] | None = None  #: what its labels mean where it carries no class names

    def __post_init__(self) -> None:
        """Raise ZSRobustError for a revision that could move."""
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ZSRobustError(f"{self.repo}: revision {self.revision!r} is not a full commit of 40 hex digits.")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it."""

    path: str
    size: int
    sha256: str | None  #: where the hub states it, which it does for large files


def files(source: HubSource, split: Split, folder: Path) -> list[HubFile]:
    """Return the files that make a split, in reading order; the repository's listing is kept under `folder`.

    Raises ZSRobustError if there are none or not all, and Unreachable if the listing is not stored and cannot be asked for.
    """
    names = source.test if split == "test" else source.train
    if not names:
        raise ZSRobustError(f"{source.repo} serves as no {split} split.")
    listing = _listing(source, folder)
    return [file for name in names for file in _SELECT[source.format](source, name, listing)]


def missing(source: HubSource, split: Split, folder: Path) -> list[HubFile]:
    """Return those files of a split that are not in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: HubFile) -> bool:
        found = try_to_load_from_cache(source.repo, file.path, revision=source.revision, repo_type="dataset")
        return isinstance(found, str)

    return [file for file in files(source, split, folder) if not cached(file)]


def download(source: HubSource, split: Split, folder: Path, progress: Progress) -> list[Path]:
    """Fetch what is missing of a split, verify what was not verified before, and return the paths in reading order.

    `progress` is called with a file's path in the repository, its bytes so far and its size, from any thread.
    """
    from zsrobust.results import write_atomically

    if absent := missing(source, split, folder):
        _check_room(sum(file.size for file in absent))
        _check_there(source)
    memory = _beside(source, folder, "verified")
    verified: dict[str, list[int]] = {}
    with suppress(OSError, ValueError, TypeError):
        verified.update(json.loads(memory.read_bytes()))
    paths = []
    for file in files(source, split, folder):
        path, stamp = _fetch(source, file, verified.get(file.path), progress)
        if verified.get(file.path) != stamp:
            verified[file.path] = stamp
            write_atomically(memory, json.dumps(verified, indent=1).encode())
        progress(file.path, file.size, file.size)
        paths.append(path)
    return paths


def read(source: HubSource, split: Split, paths: Sequence[Path]) -> Opened:
    """Open the downloaded files of a split. Of a parquet file, a row group is in memory: 100 images as `datasets` writes.

    Raises ZSRobustError, here or while the records are read, that names a file which is damaged.
    """
    if not paths:
        raise ZSRobustError(f"{source.repo}: no files of the {split} split to read.")
    return _READ[source.format](source, paths)


def _listing(source: HubSource, folder: Path) -> list[HubFile]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    from zsrobust.results import write_atomically

    path = _beside(source, folder, "files")
    with suppress(OSError, ValueError, KeyError, TypeError):  # not stored, or not whole
        return [HubFile(**file) for file in json.loads(path.read_bytes())["files"]]
    _check_there(source)
    with _asking(source, "its list of files"):
        tree = HfApi().list_repo_tree(source.repo, recursive=True, revision=source.revision, repo_type="dataset")
        found = [HubFile(e.path, e.size, e.lfs.sha256 if e.lfs else None) for e in tree if isinstance(e, RepoFile)]
    write_atomically(path, json.dumps({"files": [asdict(file) for file in found]}, indent=1).encode())
    return found


def _beside(source: HubSource, folder: Path, what: str) -> Path:
    return folder / f"{source.repo.replace('/', '--')}@{source.revision}.{what}.json"


def _parquet_files(source: HubSource, split: str, listing: Sequence[HubFile]) -> list[HubFile]:
    # The second form is that of the branch refs/convert/parquet; its partial-SPLIT holds the first 5 GB only.
    pattern = re.compile(rf"(.*/)?({re.escape(split)}-\d+-of-(?P<of>\d+)(-\w+)?|{re.escape(split)}/\d+)\.parquet")
    matches = [(file, match) for file in listing if (match := pattern.fullmatch(file.path))]
    if len({match[1] for _, match in matches}) > 1:
        raise _unfit(source, f"has split {split!r} in several folders. Name the folder too, as in 'data/{split}'")
    if any(int(match["of"]) != len(matches) for _, match in matches if match["of"]):
        raise _unfit(source, f"lists {len(matches)} files of split {split!r}, and their names say another number")
    return _some(source, split, sorted((file for file, _ in matches), key=lambda file: file.path))


def _tar_files(source: HubSource, split: str, listing: Sequence[HubFile]) -> list[HubFile]:
    pattern = re.compile(rf"{re.escape(split)}/(\d+)\.tar")
    numbered = [(int(match[1]), file) for file in listing if (match := pattern.fullmatch(file.path))]
    shards = _some(source, split, [file for _, file in sorted(numbered, key=lambda pair: pair[0])])
    return [file for file in listing if file.path in ("classnames.txt", f"{split}/nshards.txt")] + shards


def _zip_files(source: HubSource, name: str, listing: Sequence[HubFile]) -> list[HubFile]:
    return _some(source, name, [file for file in listing if file.path == name])


def _some(source: HubSource, split: str, found: list[HubFile]) -> list[HubFile]:
    if not found:
        raise _unfit(source, f"has no {source.format} files of split {split!r}")
    return found


def _unfit(source: HubSource, what: str) -> ZSRobustError:
    return ZSRobustError(f"{source.repo} {what}. Its files: {_page(source)}/tree/{source.revision}")


def _page(source: HubSource) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{source.repo}"


def _check_room(size: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).absolute()
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    if free < size:
        raise ZSRobustError(
            f"{size / 1e9:.1f} GB are to be fetched, and {cache} has room for {free / 1e9:.1f} GB. "
            "Make room there, or set HF_HOME to a folder on another disk."
        )


def _check_there(source: HubSource) -> None:
    """Raise Unreachable soon: the calls that list and fetch would try for half a minute first."""
    from huggingface_hub import HfApi

    with _asking(source, "its revision"):
        HfApi().dataset_info(source.repo, revision=source.revision, timeout=PATIENCE)


def _fetch(source: HubSource, file: HubFile, verified: list[int] | None, progress: Progress) -> tuple[Path, list[int]]:
    """Return a file's path and its stamp, verified; what does not match is deleted, and fetched once more."""
    from huggingface_hub import hf_hub_download

    for _ in range(2):
        with _asking(source, file.path):
            name = hf_hub_download(
                source.repo, file.path, repo_type="dataset", revision=source.revision, tqdm_class=_bar(file, progress)
            )
        path = Path(name)
        stamp = [path.stat().st_size, path.stat().st_mtime_ns]
        if stamp == verified or _matches(path, file):
            return path, stamp
        path.resolve().unlink()  # the blob; the path is a link to it, where the disk has links
        path.unlink(missing_ok=True)
    raise ZSRobustError(
        f"{source.repo} {file.path}: what came twice is not what the hub lists (size or sha256), and was deleted. "
        "Run again; if it stays, a proxy or a mirror (HF_ENDPOINT) changes files."
    )


def _matches(path: Path, file: HubFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    if file.sha256 is None:
        return True
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _bar(file: HubFile, progress: Progress) -> type[Any]:
    """Return the class of a progress bar that shows nothing itself and tells `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            progress(file.path, int(self.n), file.size)

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes on the wire: huggingface_hub makes no second bar for them where there is this method."""

    return Bar


@contextmanager
def _asking(source: HubSource, what: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # httpx's, whichever httpx it uses

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as error:  # RuntimeError is hf_xet's
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        raise _explain(cause, source, what) from error


def _explain(error: BaseException, source: HubSource, what: str) -> ZSRobustError:
    """Return our line for an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    repo, page = source.repo, _page(source)
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable(f"{repo} is not, or not all, on this machine, and HF_HUB_OFFLINE is set. Unset it once.")
    if isinstance(error, errors.GatedRepoError):
        return ZSRobustError(f"{repo} asks for consent. Accept its terms at {page} and set HF_TOKEN to your token.")
    if isinstance(error, errors.RevisionNotFoundError):
        return ZSRobustError(f"{repo} has no revision {source.revision} (any more). Its history: {page}/commits/main")
    if isinstance(error, errors.EntryNotFoundError):
        return _unfit(source, f"has no {what}")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return ZSRobustError(f"There is no dataset {repo} on the hub, or it is private. See {page}, or set HF_TOKEN.")
    if status in (401, 403):
        return ZSRobustError(f"The hub refuses {repo} ({status}). Accept its terms at {page} and set a valid HF_TOKEN.")
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return ZSRobustError(
            f"{repo} {what} cannot be stored under {constants.HF_HUB_CACHE} ({reason}). "
            "Make room there, or set HF_HOME to a folder on another disk."
        )
    return Unreachable(
        f"{repo}: {constants.ENDPOINT} gives no answer for {what} ({reason}). Check the network and HF_ENDPOINT, run again."
    )


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
            raise _unfit(source, f"has no column {sorted(absent)[0]!r}, but {', '.join(schema.names)}")
        found.append(names)
    if any(names != found[0] for names in found):
        raise _unfit(source, "has files that disagree on the class names")

    def records() -> Iterator[Record]:
        for path in paths:
            row = 0
            with _whole(path), parquet.ParquetFile(path) as file:
                for batch in batches(file):
                    images = batch.column(source.image)
                    if isinstance(images, pa.StructArray):
                        images = images.field("bytes")
                    for image, value in zip(images, batch.column(label), strict=True):
                        yield _record(f"{_where(source, path)} row {row}", image.as_py(), value.as_py())
                        row += 1

    def batches(file: parquet.ParquetFile) -> Iterator[pa.RecordBatch]:
        # One iterator over the whole file would hold the dictionaries of all row groups, which is all images.
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=64, row_groups=[group], columns=[source.image, label])

    return Opened(found[0], records())


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str] | None:
    """Return the names that `datasets` wrote into a file; None where there are none, or mere numbers."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names: list[str] = features.get(label, {}).get("names") or []
    first = int(names[0]) if names and names[0].isdecimal() else 0
    return None if names == [str(first + index) for index in range(len(names))] else names


def _tar(source: HubSource, paths: Sequence[Path]) -> Opened:
    shards = [path for path in paths if path.suffix == ".tar"]
    names = None
    for path in paths:
        if path.name == "classnames.txt":
            names = path.read_text("utf-8").removesuffix("\n").split("\n")
        elif path.name == "nshards.txt":
            numbers = [int(shard.stem) for shard in shards if shard.parent == path.parent]
            told = path.read_text("utf-8").strip()
            if [told, numbers] != [str(len(numbers)), list(range(len(numbers)))]:
                raise _unfit(source, f"has shards {numbers} of the {told} that {_where(source, path)} tells of")

    def records() -> Iterator[Record]:
        for path in shards:
            for key, sample in _samples(path):
                where = f"{_where(source, path)} {key}"
                image = next((sample[kind] for kind in (source.image, *IMAGES) if kind in sample), None)
                label = sample.get(source.label, sample.get("cls", b"")).strip()
                yield _record(where, image, int(label) if label.isdigit() else None)

    return Opened(names, records())


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the samples of a tar, whose members come together: their key, and their contents by extension."""
    key, sample = "", dict[str, bytes]()
    with _whole(path), tarfile.open(path, "r|") as archive:
        while member := archive.next():
            content = archive.extractfile(member)
            if content is None:
                continue
            name, _, extension = member.name.rpartition(".")
            if name != key and sample:
                yield key, sample
                sample = {}
            key, sample[extension.lower()] = name, content.read()
        with path.open("rb") as file:  # tarfile takes a damaged header for the end
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a damaged header")
    if sample:
        yield key, sample


def _zip(source: HubSource, paths: Sequence[Path]) -> Opened:
    pattern = re.compile(re.escape(source.inside.strip("/") + "/" if source.inside else "") + r"([^/]+)/([^/.][^/]*)")
    found = []
    for path in paths:
        with _whole(path), zipfile.ZipFile(path) as archive:
            found += [(match[1], path, name) for name in archive.namelist() if (match := pattern.fullmatch(name))]
    if not found:
        raise _unfit(source, f"has no folders of classes inside {source.inside or 'the top level'!r}")

    def records() -> Iterator[Record]:
        for path in paths:
            with _whole(path), zipfile.ZipFile(path) as archive:
                for label, name in sorted((label, name) for label, home, name in found if home == path):
                    yield _record(f"{_where(source, path)} {name}", archive.read(name), label)

    return Opened(sorted({label for label, _, _ in found}), records())


def _where(source: HubSource, path: Path) -> str:
    """Return a file's repository and path in it; the cache holds it under `snapshots/REVISION`."""
    return f"{source.repo} {path.as_posix().rpartition(f'{source.revision}/')[2]}"


def _record(where: str, image: bytes | None, label: int | str | None) -> Record:
    if not image:
        raise ZSRobustError(f"{where} has no image.")
    if label is None or (not isinstance(label, str) and label < 0):  # -1 says unknown
        raise ZSRobustError(f"{where} has no label.")
    return Record(where, image, label if isinstance(label, str) else int(label))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ZSRobustError(f"{path} is damaged ({reason}). Delete it; the next run fetches it again.") from error


_SELECT = {"parquet": _parquet_files, "tar": _tar_files, "zip": _zip_files}
_READ = {"parquet": _parquet, "tar": _tar, "zip": _zip}
