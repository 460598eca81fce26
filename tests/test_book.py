"""The book as readers get it: built once, walked through link by link, and opened in a headless Chromium."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from sphinx.application import Sphinx

from fmuc import paths
from fmuc.figures import manifest
from fmuc.paths import NOTEBOOKS, ROOT

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}  # else a wide page only zooms out
LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "audio": "src", "video": "src",
          "iframe": "src", "embed": "src", "object": "data"}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book as ``make book`` builds it, in a folder of its own; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", "2", "-c", "docs",
                           "-d", folder / "doctrees", ".", folder / "book"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "book"


@pytest.fixture(scope="module")
def pages(book: Path) -> dict[str, BeautifulSoup]:
    """Every page, parsed, by its path."""
    return {file.relative_to(book).as_posix(): BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
            for file in sorted(book.rglob("*.html"))}


# --- files ---


def test_every_text_and_notebook_has_its_page(pages):
    written = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "data" / "README.md", *NOTEBOOKS.rglob("[0-9]*.ipynb"),
               *(ROOT / "docs").glob("*.md"), *paths.FIGURES.glob("*.md")]
    assert {file.relative_to(ROOT).with_suffix(".html").as_posix() for file in written} <= pages.keys()


def test_every_module_has_its_page_with_all_that_is_documented(pages):
    missing = []
    for file in (ROOT / "fmuc").glob("[a-z]*.py"):
        found = anchors(pages[f"docs/api/fmuc.{file.stem}.html"])
        defined = [node.name for node in ast.parse(file.read_text(encoding="utf-8")).body
                   if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)]
        exported = getattr(importlib.import_module(f"fmuc.{file.stem}"), "__all__", defined)
        missing += [f"fmuc.{file.stem}.{name}" for name in defined if not name.startswith("_") and name in exported
                    and f"fmuc.{file.stem}.{name}" not in found]
    assert not missing


def test_every_page_is_reached_from_the_first(pages):
    reached, new = set(), {"index.html"}
    while new:
        reached |= new
        new = {target for page in new for target, _ in links(pages, page) if target in pages} - reached
    assert pages.keys() - reached <= {"_modules/index.html"}  # whose pages are linked one by one


def test_every_link_and_anchor_resolves(book, pages):
    known, dead = {page: anchors(soup) for page, soup in pages.items()}, []
    for page in pages:
        for target, anchor in links(pages, page):
            if not (book / target).is_file() or (anchor and anchor not in known.get(target, ())):
                dead.append(f"{page}: {target}#{anchor}")
    assert not dead


def test_every_image_script_and_style_is_in_the_book(book, pages):
    missing = []
    for page, soup in pages.items():
        for tag, attribute in LOADED.items():
            for value in {element[attribute] for element in soup.find_all(tag, **{attribute: True})}:
                if not value.startswith("data:") and (":" in value or not inside(book, page, value).is_file()):
                    missing.append(f"{page}: {value}")
    assert not missing


def test_no_style_loads_from_elsewhere(book, pages):
    styles = {file.name: file.read_text(encoding="utf-8") for file in book.rglob("*.css")}
    styles |= {page: " ".join(style.get_text() for style in soup.find_all("style")) for page, soup in pages.items()}
    assert [name for name, text in styles.items() if re.search(r"@import|url\([\"']?(?:https?:)?//", text)] == []


def test_formulas_are_understood(pages):
    formulas = [(page, formula) for page, soup in pages.items() for formula in soup.find_all("math")]
    assert any(page == "notebooks/04_uncertainty.html" for page, _ in formulas)
    assert [f"{page}: {formula}" for page, formula in formulas if "\\" in formula.get_text()] == []


def test_every_image_has_an_alt_text(pages):
    bare = [f"{page}: {image['src']}" for page, soup in pages.items() for image in soup.find_all("img")
            if not image.get("alt", "").strip() or re.search(r"\.(png|svg)$", image["alt"])]
    assert not bare


def test_figures_of_notebooks_have_the_alt_text_of_their_manifests(pages):
    alt = next(row["alt"] for row in manifest(paths.FIGURES / "mini") if row["name"] == "fig4")
    found = {page for page, soup in pages.items() if soup.find("img", alt=alt)}
    assert {"notebooks/04_uncertainty.html", "docs/gallery.html"} <= found


def test_gallery_shows_every_figure_with_its_provenance(pages):
    gallery = pages["docs/gallery.html"]
    for row in manifest(paths.FIGURES / "mini"):
        if row["kind"] == "figure":
            entry = next(section for section in gallery.find("section").find_all("section")
                         if re.match(rf"{row['name']} \(mini\)", section.find("h2").get_text()))
            assert entry.find("img")["alt"] == row["alt"]
            assert all(run in entry.get_text() and digest in entry.get_text() for run, digest in row["runs"].items())


def links(pages: dict[str, BeautifulSoup], page: str) -> set[tuple[str, str]]:
    """Path and anchor of each link of a page into the book."""
    found = set()
    for element in pages[page].find_all(["a", "form"]):
        target = element.get("href") or element.get("action")
        if target and not urlsplit(target).scheme:
            split = urlsplit(urljoin(page, target))
            found.add((unquote(split.path) or page, unquote(split.fragment)))
    return found


def anchors(soup: BeautifulSoup) -> set[str]:
    return {element["id"] for element in soup.find_all(id=True)}


def inside(book: Path, page: str, value: str) -> Path:
    return book / unquote(urlsplit(urljoin(page, value)).path)


def test_names_and_texts_of_a_manifest_are_escaped(tmp_path, monkeypatch):
    """A data set of your own may name its classes as it likes."""
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "figures" / "mini-<i>birds"
    folder.mkdir(parents=True)
    row = {"profile": "mini", "alt": evil, "datasets": [evil], "runs": {evil: evil}}
    rows = {name: {"name": name, "kind": kind, "files": files} | row
            for name, kind, files in (("fig", "figure", ["fig.png"]), ("tab", "table", ["tab.csv"]))}
    (folder / "manifest.json").write_text(json.dumps(rows))
    shutil.copy(paths.FIGURES / "mini" / "fig4.png", folder / "fig.png")
    (folder / "tab.csv").write_text(f"{evil},b\n1,{evil}\n")
    (tmp_path / "gallery.rst").write_text("Figures\n=======\n\n.. figure-gallery::\n\n.. table-gallery::\n")
    for name in ("ROOT", "FIGURES", "NOTEBOOKS", "SHIPPED_RECORDS"):
        monkeypatch.setattr(paths, name, tmp_path / ("" if name == "ROOT" else name.lower()))
    monkeypatch.syspath_prepend(ROOT / "docs")
    pages = importlib.import_module("book_pages")
    forget = (pages.saved_in.cache_clear, pages.alts.cache_clear)
    for clear in forget:
        clear()
    app = Sphinx(tmp_path, None, tmp_path / "book", tmp_path / "doctrees", "html", status=None, warningiserror=True,
                 confoverrides={"extensions": ["book_pages"], "html_theme": "furo", "root_doc": "gallery"})
    app.build()
    for clear in forget:
        clear()
    page = (tmp_path / "book" / "gallery.html").read_text(encoding="utf-8")
    article = BeautifulSoup(page, "html.parser").find("article")
    assert article.find("img")["alt"] == evil
    assert article.find("script") is None and article.find("i") is None
    assert article.get_text().count(evil) >= 7  # caption, text, data set, run and digest, header and cell


# --- in the browser ---


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def site(book: Path) -> Iterator[str]:
    """Address of the book on a server of this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """A headless Chromium that reaches nothing but this machine."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with chromedriver here (Debian and Ubuntu: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server",
                     "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        running = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield running
        running.quit()


def errors(browser: webdriver.Chrome) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_every_page_on_a_phone(browser, site, pages):
    """No console error, nothing from elsewhere, no broken image or player, and no page that scrolls sideways."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    faults = {}
    for page in pages.keys() - {"index.html"}:  # which goes on to the start page
        browser.get(site + page)
        wide, loaded, broken, hidden = browser.execute_script(
            "return [document.documentElement.scrollWidth, performance.getEntriesByType('resource').map(r => r.name),"
            " [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),"
            " [...document.querySelectorAll('audio')].filter(a => !a.offsetHeight).length]")
        elsewhere = [name for name in loaded if not name.startswith((site, "data:"))]
        found = [*errors(browser), *elsewhere, *broken, f"{wide} px wide", f"{hidden} hidden players"]
        if found[:-2] or wide > PHONE["width"] or hidden:
            faults[page] = found
    assert not faults


def test_first_page_leads_to_the_start(browser, site, pages):
    browser.get(site)
    WebDriverWait(browser, 20).until(lambda b: b.current_url == f"{site}docs/index.html" and b.title)


@pytest.mark.parametrize("served", [True, False], ids=["from a server", "from the disk"])
def test_search_finds_temperature(browser, site, book, pages, served):
    base = site if served else f"{book.as_uri()}/"
    browser.get(f"{base}search.html?q=temperature")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    found = {link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#search-results li a")}
    targets = {unquote(urlsplit(href.removeprefix(base)).path) for href in found}
    assert targets <= pages.keys()
    assert any(target.startswith("notebooks/") for target in targets)


def test_dark_scheme_is_dark_and_both_are_legible(browser, site):
    browser.get(f"{site}docs/index.html")
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        style = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        seen[scheme] = [luminance(colour) for colour in browser.execute_script(style)]
    assert seen["light"][0] > 0.8 and seen["dark"][0] < 0.1
    for background, text in seen.values():  # the contrast that WCAG 2.2 asks for (AA)
        assert (max(background, text) + 0.05) / (min(background, text) + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of a CSS colour 'rgb(r, g, b)'."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
