"""What the targets share: hostile values, damaged bytes, how many inputs, and the judge."""

import copy
import json
import os
import string
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from zsrobust.core.errors import UNPRINTABLE, ZSRobustError

SHARE = float(os.environ.get("ZSROBUST_FUZZ", "0.005"))
CALLS: Counter[str] = Counter()
TAKEN: defaultdict[str, Counter[str]] = defaultdict(Counter)
PATIENCE = 20.0  #: seconds for one input


def inputs(nightly: int) -> settings:
    """So many inputs at night; in other runs a few, the same every time."""
    return settings(
        max_examples=max(4, round(nightly * SHARE)),
        derandomize=SHARE < 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def judge(target: str, call: Callable[[], Any]) -> Any:
    """Call; only ZSRobustError may come out, one line, and soon. Returns what the call did, None if it refused."""
    CALLS[target] += 1
    start = time.monotonic()
    try:
        found, line = call(), None
    except ZSRobustError as error:
        found, line = None, str(error)
    TAKEN[target]["taken" if line is None else "refused"] += 1
    assert line != ""
    assert not UNPRINTABLE.search(line or "")
    assert time.monotonic() - start < PATIENCE
    return found


TEXTS = [
    "",
    " ",
    "none",
    "true",
    "nan",
    "inf",
    "-1",
    "0",
    "1e400",
    "1/0",
    "8/255",
    "9" * 5000 + "/1",
    "../../etc/passwd",
    "/etc/passwd",
    "~nobody-here/x",
    "a\0b",
    "a" * 300,
    "a/" * 200,
    "<script>alert(1)</script>",
    "</script>",
    "&amp;",
    "$x^2$",
    "$\\frac",
    "|",
    "{}",
    "{",
    "{0.__class__}{}",
    "{:>9999999999}",
    "\ud800",
    "\u2028",
    "\x1b[2J",
    "\n",
    "a\nb",
    "__import__('os')",
    "clip",
    "pgd10",
    "weights:a=b",
    "interpolation:of=interpolation",
    "hf-hub:a/b",
    "package:os/x",
    "datasets/x",
    "ä",
    "\u0661",
    ".",
    "..",
    "x.toml",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30)])
    | st.floats()
    | st.sampled_from(TEXTS)
    | st.text(max_size=12)
)
weird = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def edited(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = weird) -> Any:
    """A valid document of JSON or TOML in which one to three parts are others, missing, or too many."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place = document
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
            else:
                break
        how = draw(st.sampled_from(["change", "change", "change", "drop", "add"]))
        if how == "add" and isinstance(place, list):
            place.append(draw(values))
        elif how == "add":
            place[draw(st.sampled_from(TEXTS))] = draw(values)
        elif keys and how == "drop":
            del place[key]
        elif keys:
            place[key] = draw(values)
    return document


#: What breaks parsers, in text and in binary.
BITS = [
    *(bytes([value]) * size for value in (0, 1, 127, 128, 255) for size in (1, 2, 4, 8)),
    *(
        number.to_bytes(size, order)
        for number in (2**31 - 1, 2**30, 65535, 1000)
        for size in (4, 8)
        for order in ("little", "big")
    ),
    b'"',
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"(" * 500,
    b"=",
    b",",
    b":",
    b"\\",
    b"\\ud800",
    b"\n",
    b"\r\n",
    b"NaN",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b"null",
    b"true",
    b"../",
    b"/",
    b"\xef\xbb\xbf",
    b"O",
    b"|O",
    b"<U999999999",
    b"'shape': (99999999999,),",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x89PNG",
    b"IHDR",
    b"IEND",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\x93NUMPY",
    b"cos\nsystem\n",
    b"\x80\x04",
    b"R",
    b".",
    b"\x94",
    b"r\xff\xff\xff\x7f",
]


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """The bytes of a valid file in which a few are others, missing, inserted or doubled."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.booleans())  # headers stand at the start, or at the end
        at = draw(
            st.integers(0, max(0, min(len(content), 400) if draw(st.booleans()) else len(content)))
        )
        at = len(content) - at if end else at
        size = draw(st.sampled_from([1, 1, 2, 4, 8, 16, 64, 512]))
        how = draw(st.sampled_from(["flip", "put", "insert", "delete", "double", "cut"]))
        if how == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "put":
            bits = draw(st.sampled_from(BITS))
            content[at : at + len(bits)] = bits
        elif how == "insert":
            content[at:at] = draw(st.sampled_from(BITS))
        elif how == "delete":
            del content[at : at + size]
        elif how == "double":
            content[at:at] = content[at : at + size]
        elif how == "cut":
            del content[at:]
    return bytes(content)


def toml(table: dict[str, Any]) -> str:
    """A table as TOML, each value inline; what TOML cannot hold comes out as something else that it cannot hold."""
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(key)} = {_inline(each)}" for key, each in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


words = (
    st.sampled_from(TEXTS)
    | st.text(string.ascii_lowercase + string.digits + "_=,:/.-@~\0\n ", max_size=20)
    | st.text(max_size=8)
)
