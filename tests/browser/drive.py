#!/usr/bin/env python3
"""Drives headless Chromium over the pages that popgrad writes.

    python tests/browser/drive.py BINARY [--shots FOLDER]

BINARY is popgrad's. It makes short runs, their reports and the pages of a study and of `verify`,
opens each at the widths of a desk and of a telephone, light and dark, and uses them as a reader
does. Needs selenium, chromium and chromedriver; exit code 77 where the last two are missing.
"""

import argparse
import base64
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    from selenium import webdriver
    from selenium.webdriver.common.keys import Keys
except ImportError:
    print("skipped: no selenium")
    sys.exit(77)

WIDTHS = {"desk": 1280, "phone": 390}
SHORT = ["batch=64", "test_size=128", "shards=4", "--quiet"]


def browser():
    """Headless, and asking nobody anything."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        print("skipped: no chromium with chromedriver")
        sys.exit(77)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run",
             "disable-dev-shm-usage", "disable-component-update", "force-color-profile=srgb"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


class Page:
    """One page in one size and scheme."""

    def __init__(self, driver, path, width, scheme):
        self.driver, self.name = driver, f"{path.name} at {width} px, {scheme}"
        phone = width < 500
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 844 if phone else 900, "deviceScaleFactor": 1, "mobile": phone})
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get(path.resolve().as_uri())

    def js(self, text, *args):
        return self.driver.execute_script(text, *args)

    def expect(self, true, what):
        if not true:
            raise AssertionError(f"{self.name}: {what}")

    def point(self, selector, x, y, index=0):
        """Moves the mouse to a place in an element, as shares of its size."""
        place = self.js("""const el = document.querySelectorAll(arguments[0])[arguments[1]];
            el.scrollIntoView({block: "center"});
            const r = el.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]""", selector, index)
        at = {"x": place[0] + x * place[2], "y": place[1] + y * place[3]}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})

    def fits(self):
        wide = self.js("return document.documentElement.scrollWidth - window.innerWidth")
        self.expect(wide <= 0, f"{wide} px wider than the window")

    def quiet(self):
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        self.expect(not said, f"the console says {said}")

    def shot(self, folder, stem):
        if folder:
            size = self.js("return [innerWidth, Math.min(document.documentElement.scrollHeight, 9000)]")
            clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
            self.js("scrollTo(0, 0)")
            found = self.driver.execute_cdp_cmd("Page.captureScreenshot",
                                                {"clip": clip, "captureBeyondViewport": True})
            (folder / f"{stem}.png").write_bytes(base64.b64decode(found["data"]))


def texts(page, selector):
    return page.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)


def of_report(page, graph):
    """Reads curves, moves the slider, reads cells, asks the text."""
    page.expect(texts(page, "h1"), "no heading")
    # A curve shows its values under the mouse, and none when it has left.
    page.point(".chart > svg", 0.6, 0.5)
    tip = texts(page, ".chart .tip")[0]
    page.expect(tip.startswith("step ") and ": " in tip, f"the curve says {tip!r}")
    inside = page.js("""const [t, c] = [".tip", ".chart"].map((s) => document.querySelector(s).getBoundingClientRect());
        return t.top >= c.top && t.bottom <= c.bottom && t.left >= c.left && t.right <= c.right + 1""")
    page.expect(inside, "the values stand beside their chart")
    page.point("h1", 0.1, 0.5)
    page.expect(texts(page, ".chart .tip")[0] == "", "the values stay")
    # The axis, and a curve that goes and comes.
    lines = "return document.querySelectorAll('.chart > svg .curve').length"
    before = page.js(lines)
    page.js("document.querySelector('.chart button:not(.mode)').click()")
    page.expect(page.js(lines) == before - 1, "a curve that was put away is there")
    page.js("document.querySelector('.chart button:not(.mode)').click()")
    first = "return document.querySelector('.chart > svg .curve').getAttribute('d')"
    linear = page.js(first)
    page.js("document.querySelector('.chart button.mode').click()")
    page.expect(page.js(first) != linear, "a logarithmic axis changes nothing")
    # Keys read a curve, too.
    page.js("document.querySelector('.chart > svg').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.expect(texts(page, ".chart .tip")[0].startswith("step 0"), "keys read no value")
    # The slider: by its keys, to the first snapshot.
    # Of a copy: the page's own canvas is not one to be read.
    cells = """const c = document.querySelector(".map canvas"), copy = document.createElement("canvas");
        [copy.width, copy.height] = [c.width, c.height];
        const context = copy.getContext("2d");
        context.drawImage(c, 0, 0);
        return context.getImageData(0, 0, c.width, c.height).data.join()"""
    last, step = page.js(cells), texts(page, ".step output")[0]
    edges = page.js("return document.querySelectorAll('.learned path').length")
    page.js("document.querySelector('.step input[type=range]').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.HOME)
    page.expect(texts(page, ".step output")[0] == "step 0" != step, "the slider stands still")
    page.expect(page.js(cells) != last, "no cell has changed")
    page.expect(len(set(last.split(","))) > 8, "the cells have no colours")
    # Colours of this snapshot alone, early in training.
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    pale = page.js(cells.replace('".map canvas"', '".map:last-child canvas"'))
    page.js("document.querySelector('.step button').click()")
    page.expect(page.js(cells.replace('".map canvas"', '".map:last-child canvas"')) != pale, "no other colours")
    page.js("document.querySelector('.step button').click()")
    page.driver.switch_to.active_element.send_keys(Keys.HOME)
    if graph:
        found = texts(page, ".arcs output")[0]
        page.expect(found.startswith("0 of ") and edges > 0, f"before training: {found}")
    page.driver.switch_to.active_element.send_keys(Keys.END)
    page.expect(page.js(cells) == last, "the end is another one")
    # A cell says its value.
    page.point(".map canvas", 0.01, 0.99)
    said = texts(page, ".map output")[0]
    page.expect(": 0" in said or ": 1" in said or "e-" in said, f"the cell says {said!r}")
    page.js("document.querySelector('.map canvas').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    page.expect(texts(page, ".map output")[0], "keys read no cell")
    # The text.
    before = texts(page, ".sample > output")[0]
    page.js("document.querySelectorAll('.tokens span')[3].click()")
    after = texts(page, ".sample > output")[0]
    page.expect("attends to" in after and after != before, f"the text says {after!r}")
    page.expect(page.js("return document.querySelectorAll('math').length") > 3, "no formulas")


def of_index(page):
    """The box leaves what it is asked for."""
    sections = "return [...document.querySelectorAll('section.part')].filter((s) => !s.hidden).length"
    everything = page.js(sections)
    word = page.js("return document.querySelector('h2').textContent.split(' ')[0]")
    box = page.driver.find_element("css selector", "input[type=search]")
    box.send_keys("no such words")
    page.expect(page.js(sections) == 0, "sections without the words stay")
    box.clear()
    box.send_keys(word)
    page.expect(1 <= page.js(sections) <= everything, f"{word!r} finds nothing")
    box.clear()
    box.send_keys(" ")
    page.expect(page.js(sections) == everything, "sections do not come back")


def make(binary, folder):
    """Runs and pages; page and check each."""
    def popgrad(*words):
        subprocess.run([binary, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    popgrad("run", "chain", "S=3", "T=8", "steps=256", "lr=4", "eval_every=16", "snapshots=log", *SHORT, "--out", "chain")
    popgrad("run", "birth", "T=48", "dim=32", "steps=24", "eval_every=2", "snapshots=log", *SHORT, "--out", "birth")
    popgrad("run", "chain", "S=3", "T=6", "steps=32", "eval_every=8", "seeds=2", *SHORT, "--out", "study")
    popgrad("sweep", "alpha=0.1,1", "S=3", "T=6", "steps=8", "seeds=1", *SHORT, "--out", "sweep")
    popgrad("verify", "leading", "diagonal", "--quiet", "--out", "verify")
    for name in ["chain", "birth", "study"]:
        popgrad("report", name)
    return [
        (folder / "chain" / "report.html", lambda page: of_report(page, True)),
        (folder / "birth" / "report.html", lambda page: of_report(page, False)),
        (folder / "study" / "report.html", None),
        (folder / "sweep" / "sweep.html", of_index),
        (folder / "verify" / "verify.html", of_index),
    ]


def main():
    words = argparse.ArgumentParser()
    words.add_argument("binary")
    words.add_argument("--shots", type=pathlib.Path)
    words.add_argument("--pages", type=pathlib.Path, nargs="*", help="pictures of these pages instead")
    args = words.parse_args()
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
    driver = browser()
    checked = 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            binary = str(pathlib.Path(args.binary).resolve())
            pages = [(p, None) for p in args.pages] if args.pages else make(binary, pathlib.Path(temporary))
            for path, check in pages:
                for size, width in WIDTHS.items():
                    for scheme in ["light", "dark"]:
                        page = Page(driver, path, width, scheme)
                        page.fits()
                        stem = path.stem if args.pages else f"{path.parent.name}"
                        page.shot(args.shots, f"{stem}-{size}-{scheme}")
                        if check:
                            check(page)
                            page.fits()
                        page.quiet()
                        checked += 1
                printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
                page.expect(len(printed["data"]) > 10_000, "it cannot be printed")
    finally:
        driver.quit()
    print(f"{checked} views of {len(pages)} pages")


if __name__ == "__main__":
    main()
