"""The HTML report in a real browser: `python tests/cli/browser.py SOURCE [FOLDER]`, run by hand.

Needs a headless Chromium (Debian: chromium-headless-shell). Sorts and filters the tables as a reader would, checks what
the page then shows, and leaves screenshots in FOLDER: light and dark, wide and narrow.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
ACT = """
<script>
const said = {};
const main = document.querySelector("#modules .filtered");
const rows = () => [...main.querySelectorAll("tbody tr")].filter((row) => !row.hidden);
const column = (at) => rows().map((row) => row.cells[at].dataset.key ?? row.cells[at].textContent);
const heading = (name) => [...main.querySelectorAll("thead th")].findIndex((cell) => cell.textContent === name);
const at = heading("bytes");
main.querySelectorAll("thead th")[at].click();
said.rising = column(at).map(Number);
main.querySelectorAll("thead th")[at].click();
said.falling = column(at).map(Number);
const field = main.querySelector("input");
field.value = "down_proj";
field.dispatchEvent(new Event("input"));
said.filtered = rows().map((row) => row.textContent);
said.wide = document.documentElement.scrollWidth <= window.innerWidth;
said.resources = performance.getEntriesByType("resource").length;
document.body.dataset.said = JSON.stringify(said);
</script>
"""


def chromium(*words: str) -> str:
    """Run the browser and return what it prints."""
    program = next(path for path in map(shutil.which, NAMES) if path)
    command = [program, "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def page_of(source: str, folder: Path) -> Path:
    """The report as a file."""
    path = folder / "report.html"
    command = [sys.executable, "-m", "fp8load", "verify", source, "-f", "html", "-o", str(path), "--exit-zero"]
    subprocess.run(command, check=True)
    return path


def check(page: Path) -> None:
    """Sort, filter, look."""
    acted = page.with_name("acted.html")
    acted.write_text(page.read_text().replace("</body>", ACT + "</body>"))
    for width in (1280, 400):
        dom = chromium(f"--window-size={width},900", "--dump-dom", acted.as_uri())
        found = re.search(r'data-said="([^"]*)"', dom)
        assert found, "the script did not run"
        said = json.loads(found[1].replace("&quot;", '"'))
        assert said["rising"] == sorted(said["rising"]), said
        assert said["falling"] == sorted(said["falling"], reverse=True), said
        assert said["filtered"], said
        assert all("down_proj" in text for text in said["filtered"]), said
        assert said["wide"], f"the page is wider than a window of {width}"
        assert said["resources"] == 0, said
    acted.unlink()


def shoot(page: Path, folder: Path) -> None:
    """Screenshots."""
    for width, height in ((1280, 2600), (400, 2600)):
        for scheme, number in (("light", 1), ("dark", 0)):
            chromium(f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={number}",
                     f"--screenshot={folder / f'{scheme}-{width}.png'}", page.as_uri())  # fmt: skip


if __name__ == "__main__":
    target = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp()).resolve()
    target.mkdir(exist_ok=True)
    report = page_of(sys.argv[1], target)
    check(report)
    shoot(report, target)
    print(f"sorts, filters, fits; screenshots in {target}")
