"""What the book adds to Sphinx: formulas as MathML, figures with provenance and alt texts, and the page to start on."""

from __future__ import annotations

import json
import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import nbformat
import pandas as pd
import PIL.Image
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.ext import autosummary
from sphinx.util.docutils import SphinxDirective

from fmuc import paths
from fmuc.figures import manifest
from fmuc.machinery.notebooks import read
from fmuc.tables import title
from tools.outputs import saved_pictures

HEADINGS = {"bench": "Speed beside a textbook's code", "precision-nsynth-gm": "bfloat16 beside float32",
            "fuzz": "Damaged and hostile input"}
STORY = "notebooks/story"
SLIDERS = "Run this cell in JupyterLab to move "  # what a notebook says in place of sliders, without a front end
COLUMN = 720  # pixels that a figure of column width has at most
SAVED = re.compile(r'save_(?:figure|table)\(\w+,\s*f?"([^"]+)"')
START = """<!DOCTYPE html>
<html lang="en-GB"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><a href="{page}">{title}</a></body></html>
"""


# --- formulas ---


def mathml(tex: str, display: str) -> str:
    """``tex`` as MathML, ``display`` being inline or block; latex2mathml knows no arg apart from argmax."""
    return convert(re.sub(r"\\arg(?![a-z])", r"\\operatorname{arg}", tex), display=display)


def visit_math(writer, node: nodes.math) -> None:
    """A formula in a line of text."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_math_block(writer, node: nodes.math_block) -> None:
    """A formula of its own; one wider than a phone is scrolled, not the page. ``\\tag`` numbers it."""
    anchor = f' id="{writer.attval(node["ids"][0])}"' if node["ids"] else ""
    number = re.search(r"\\tag\{(.*?)\}", node.astext())
    formula = mathml(node.astext().replace(number[0], "") if number else node.astext(), "block")
    text = f"<span>({writer.encode(number[1])})</span>" if number else ""
    writer.body.append(f'<div class="math"{anchor}>{formula}{text}</div>')
    raise nodes.SkipNode


# --- gallery ---


class Gallery(SphinxDirective):
    """``figure-gallery`` or ``table-gallery``: every one of the manifests, with what it was made from."""

    def run(self) -> list[nodes.Node]:
        kind = self.name.removesuffix("-gallery")
        found = []
        for folder, rows in manifests():
            for row in rows:
                if row["kind"] == kind:
                    self.env.note_dependency(str(folder / "manifest.json"))
                    found.append(entry(row, folder))
        return found


def manifests() -> list[tuple[Path, list[dict]]]:
    """The folders of committed figures with the rows of their manifests."""
    folders = sorted(path.parent for path in paths.FIGURES.glob("*/manifest.json"))
    return [(folder, manifest(folder)) for folder in folders if not folder.name.endswith(("-own", "-shipped"))]


def entry(row: dict, folder: Path) -> nodes.section:
    """A figure or table of a manifest: heading, picture or cells, and its provenance."""
    section = nodes.section(ids=[nodes.make_id(f"{folder.name}-{row['name']}")])
    section += nodes.title(text=f"{row['name']} ({row['profile']})")
    section += picture(row, folder) if row["kind"] == "figure" else [nodes.paragraph(text=row["alt"]),
                                                                   table(folder / f"{row['name']}.csv")]
    listed = nodes.bullet_list()
    provenance = {"Made by": made_by(row["name"]), "Profile": [nodes.Text(row["profile"])]}
    if row["runs"]:
        provenance |= {"Data": [nodes.Text(", ".join(map(title, row["datasets"])))],
                       "Records": [nodes.Text(f"{len(row['runs'])}, trained by code {', '.join(codes(row))}")]}
    else:
        provenance["Records"] = [nodes.Text("none: made in the notebook")]
    for heading, content in (provenance | {"Files": files(row, folder)}).items():
        paragraph = nodes.paragraph()
        paragraph += [nodes.strong(text=f"{heading}: "), *content]
        listed += nodes.list_item("", paragraph)
    section += listed
    if row["runs"]:
        section += records(row["runs"])
    return section


def picture(row: dict, folder: Path) -> nodes.figure:
    """The raster image with its alt text, which is the caption, too."""
    image = nodes.image(uri=f"/{folder.relative_to(paths.ROOT).as_posix()}/{row['name']}.png", alt=row["alt"])
    figure = nodes.figure("", image)
    figure += nodes.caption(text=row["alt"])
    return figure


def table(file: Path) -> nodes.table:
    """A CSV file as a table; cells are text, whatever stands in them."""
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    group = nodes.tgroup(cols=len(frame.columns))
    group += [nodes.colspec(colwidth=1) for _ in frame.columns]
    head, body = nodes.thead(), nodes.tbody()
    for part, lines in ((head, [list(frame.columns)]), (body, frame.to_numpy().tolist())):
        for line in lines:
            row = nodes.row()
            row += [nodes.entry("", nodes.paragraph(text=cell)) for cell in line]
            part += row
    group += [head, body]
    found = nodes.table()
    found += group
    return found


def records(runs: dict[str, str]) -> nodes.container:
    """Names and digests of the records, folded away."""
    listed = nodes.bullet_list()
    for name, digest in runs.items():
        paragraph = nodes.paragraph()
        paragraph += [nodes.literal(text=name), nodes.Text(f", digest {digest}")]
        listed += nodes.list_item("", paragraph)
    folded = nodes.container()
    folded += [nodes.raw("", "<details><summary>The records</summary>", format="html"), listed,
               nodes.raw("", "</details>", format="html")]
    return folded


def made_by(name: str) -> list[nodes.Node]:
    """A link to the notebook that saves ``name``."""
    notebook = saved_in().get(name)
    if notebook is None:
        return [nodes.Text("no committed notebook")]
    target = f"../notebooks/{notebook}.html"
    return [nodes.reference("", notebook, refuri=target, internal=True)]


@cache
def saved_in() -> dict[str, str]:
    """Notebook by the name of each figure and table that it saves."""
    found = {}
    for file in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == "code":
                found |= dict.fromkeys(saved(cell.source), file.stem)
    return found


def saved(source: str) -> list[str]:
    """Names of the figures and tables that a cell saves; a field of an f-string stands for any text."""
    patterns = [re.sub(r"\{.*?\}", ".+", name) for name in SAVED.findall(source)]
    return [name for pattern in patterns for name in sorted(names()) if re.fullmatch(pattern, name)]


@cache
def names() -> set[str]:
    """Names of all figures and tables."""
    return {row["name"] for _, rows in manifests() for row in rows}


@cache
def record_code(profile: str, run: str) -> str:
    """Digest of the code that trained ``run``, where its record is committed."""
    file = paths.records_dir(profile, "shipped") / run / "run.json"
    return json.loads(file.read_text(encoding="utf-8"))["provenance"]["code"] if file.is_file() else "not committed"


def codes(row: dict) -> list[str]:
    """Code versions of the records behind a figure, each once."""
    return sorted({record_code(row["profile"], run) for run in row["runs"]})


def files(row: dict, folder: Path) -> list[nodes.Node]:
    """Links to the files of a row, each copied into the book (see :func:`finish`)."""
    found: list[nodes.Node] = []
    for file in row["files"]:
        target = f"../{folder.relative_to(paths.ROOT).as_posix()}/{file}"
        found += [nodes.reference("", file, refuri=target, internal=True), nodes.Text(" ")]
    return found


# --- texts ---


def describe_images(app: Sphinx, doctree: nodes.document) -> None:
    """Alt text of a notebook's pictures: that with which the figure was saved, else what their section says."""
    file = paths.ROOT / f"{app.env.docname}.ipynb"
    saved_as = {sha256(png).hexdigest(): alt for alt, png in saved_pictures(read(file))} if file.is_file() else {}
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") != "cell_code":
            continue
        section = cell.parent.next_node(nodes.title)
        heading = re.sub(r"\\(\w+)", r"\1", section.astext()) if section else app.env.docname  # TeX's log, to
        for image in cell.findall(nodes.image):
            image.setdefault("alt", saved_as.get(Path(image["uri"]).stem, f"Figure of the section “{heading}”"))


def offer_laboratory(app: Sphinx, doctree: nodes.document) -> None:
    """Sliders need a kernel, which the book has not: where they would be, it leads to the page that does without."""
    for text in list(doctree.findall(nodes.literal_block)):
        if text.astext().startswith(SLIDERS):
            moved = text.astext().removeprefix(SLIDERS).strip(".\n")
            page = app.builder.get_relative_uri(app.env.docname, "docs/laboratory")
            paragraph = nodes.paragraph()
            paragraph += [nodes.Text(f"In JupyterLab, sliders move {moved} here. In the book, the "),
                          nodes.reference("", "threshold laboratory", refuri=page, internal=True),
                          nodes.Text(" has sliders for threshold, temperature and passes.")]
            text.replace_self(paragraph)


def mark_wide_images(app: Sphinx, doctree: nodes.document) -> None:
    """Pictures of double width get a class, so that a phone does not shrink them until nobody can read them."""
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir) / image["uri"]
        if file.suffix == ".png" and PIL.Image.open(file).width > COLUMN:
            image["classes"].append("wide")


def add_heading(app: Sphinx, docname: str, source: list[str]) -> None:
    """The tables that commands write into figures/ have no heading of their own."""
    if docname.startswith("figures/"):
        source[0] = f"# {HEADINGS.get(Path(docname).name, Path(docname).name)}\n\n{source[0]}"


def link_modules(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Links to the package's files lead to what is documented under their text, else to the source in the book."""
    objects = app.env.domaindata["py"]["objects"]
    for link in list(doctree.findall(nodes.reference)):  # downloads, too
        module = re.fullmatch(r"(?:\.\./)*(fmuc/[\w/]+)\.py", link.get("refuri") or link.get("reftarget", ""))
        if module:
            package = module[1].rpartition("/")[0].replace("/", ".")
            named = objects.get(f"{package}.{link.astext()}")
            page, anchor = (named.docname, f"#{named.node_id}") if named else (f"_modules/{module[1]}", "")
            target = app.builder.get_relative_uri(docname, page) + anchor
            link.replace_self(nodes.reference("", "", *link.children, refuri=target, internal=True))


def mend_docstring(app: Sphinx, kind: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """In docstrings, |x| is an absolute value, never a substitution; what Python says of a tuple's field is no text."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()
    for number, line in enumerate(lines):
        parts = line.split("``")  # every second one is code
        parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


# --- building ---


def offer_slides(app: Sphinx, pagename: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """The story is a lecture's slides, too."""
    if pagename == STORY:
        app.add_js_file("slides.js")


def forget_pages(app: Sphinx, config: object) -> None:
    """Remove the pages of modules: autosummary makes those of today's, and leaves those of deleted ones."""
    for page in (paths.ROOT / "docs" / "api").glob("fmuc*.rst"):
        page.unlink()


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copy the figures' files and write the page that a server shows first."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for folder, rows in manifests():
        for row in rows:
            for file in row["files"]:
                target = out / "figures" / folder.name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((folder / file).read_bytes())
    page = f"{app.config.root_doc}.html"
    (out / "index.html").write_text(START.format(title=app.config.project, page=page), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Sphinx's entry point."""
    app.setup_extension("sphinx.ext.autosummary")
    known = getattr(autosummary, "WELL_KNOWN_ABBREVIATIONS", ())
    autosummary.WELL_KNOWN_ABBREVIATIONS = (*known, "Eq.", "Fig.", "Figs.")  # which end no sentence
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.add_directive("figure-gallery", Gallery)
    app.add_directive("table-gallery", Gallery)
    app.connect("config-inited", forget_pages)
    app.connect("source-read", add_heading)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-read", offer_laboratory)
    app.connect("doctree-read", mark_wide_images)
    app.connect("doctree-resolved", link_modules)
    app.connect("autodoc-process-docstring", mend_docstring)
    app.connect("html-page-context", offer_slides)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
