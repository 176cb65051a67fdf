"""Take the screenshots of README.md: Table 1 in a terminal, the report, and the site's start page.

Run: `python benchmarks/errands/shots.py --before CHECKOUT --pages FOLDER`. The pages are built in
FOLDER from the results of this checkout. A page that is already there is not built again. The
script needs chromium, chromedriver, selenium and Pillow. It stores the images in shots/.
"""

import argparse
import fcntl
import html
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from errands import HERE, ROOT
from PIL import Image
from selenium import webdriver

SHOTS = HERE / "shots"
RUN = "import sys; sys.path.pop(0); from zsrobust.cli import main; main()"
#: Width and height of a window in pixels: on a desk, and on a phone.
SIZES = ((1400, 900), (400, 800))
ROWS, COLUMNS = 40, 80
COLORS = 48
#: A line that is too long for a terminal continues in its next row, at any character.
TERMINAL = """<!doctype html><meta charset="utf-8"><title>terminal</title>
<body style="margin: 0; background: #14171b; color: #e7e9ec">
<pre style="margin: 12px; width: {columns}ch; font: 14px/18px monospace; white-space: pre-wrap;
word-break: break-all">{text}</pre>"""


def printed(checkout: Path, folder: Path, *command: str) -> str:
    """Return what zsrobust prints in a terminal of 80 columns, without colors.

    Raises SystemExit if the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "results").exists():
        (folder / "results").symlink_to(ROOT / "results")
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "TERM": "xterm"}
    reader, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(  # noqa: S603  # this python, with the commands of `pages`
        [sys.executable, "-c", RUN, *command],
        cwd=folder,
        env=environment,
        stdin=screen,
        stdout=screen,
        stderr=screen,
    )
    os.close(screen)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(parts(reader)).decode())
    os.close(reader)
    if process.wait():
        raise SystemExit(f"zsrobust {' '.join(command)} failed:\n{text}")
    return text.replace("\r\n", "\n")


def parts(reader: int) -> Iterator[bytes]:
    """Yield what a terminal shows, until its program ends."""
    while True:
        try:
            part = os.read(reader, 4096)
        except OSError:  # Linux's answer once the program has closed the terminal
            return
        if not part:
            return
        yield part


def pages(checkout: Path, folder: Path, side: str) -> dict[str, Path]:
    """Return the pages of a side by name: terminal, report, and of now the site."""
    found = {"terminal": folder / "terminal.html", "report": folder / "report.html"}
    if side == "now":
        found["site"] = folder / "site" / "index.html"
    if not found["terminal"].exists():
        command = ("table", "1", "--suite", "mini")
        text = f"$ zsrobust {' '.join(command)}\n{printed(checkout, folder, *command)}"
        page = TERMINAL.format(columns=COLUMNS, text=html.escape(text))
        found["terminal"].write_text(page, encoding="utf-8")
    if not found["report"].exists():
        printed(checkout, folder, "report", "--out", "report.html")
    if side == "now" and not found["site"].exists():
        printed(checkout, folder, "site", "--out", "site")
    return found


def browser() -> webdriver.Chrome:
    """Return chromium without a window."""
    program, manager = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not manager:
        raise SystemExit("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for name in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "hide-scrollbars",
    ):
        options.add_argument(f"--{name}")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(manager))


def take(driver: webdriver.Chrome, page: Path, size: tuple[int, int], theme: str) -> Image.Image:
    """Return the first screen of a page in a window's size and a theme, in a palette."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    driver.get(page.resolve().as_uri())
    image = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    return image.quantize(COLORS, dither=Image.Dither.NONE)


def main() -> None:
    """Build the pages of both sides and store their screenshots."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of 78e007b")
    parser.add_argument("--pages", type=Path, required=True, help="folder of the pages")
    asked = parser.parse_args()
    SHOTS.mkdir(exist_ok=True)
    with browser() as driver:
        for side, checkout in (("before", asked.before), ("now", ROOT)):
            for name, page in pages(checkout, asked.pages / side, side).items():
                if name == "terminal":
                    size = (COLUMNS * 9, ROWS * 18 + 24)
                    image = take(driver, page, size, "dark")
                    image.save(SHOTS / f"{side}-terminal.png", optimize=True)
                    continue
                for size in SIZES:
                    for theme in ("light", "dark"):
                        path = SHOTS / f"{side}-{name}-{size[0]}-{theme}.png"
                        take(driver, page, size, theme).save(path, optimize=True)


if __name__ == "__main__":
    main()
