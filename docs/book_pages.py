"""What the book adds to Sphinx: formulas as MathML, figures with provenance and alt texts, and the page to start on."""

from __future__ import annotations

import re
from functools import cache
from hashlib import sha256
from pathlib import Path

import PIL.Image
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.ext import autosummary

from fmuc import paths
from fmuc.figures import manifest
from fmuc.machinery.notebooks import read
from fmuc.tables import title
from tools.outputs import saved_pictures

HEADINGS = {"bench": "Speed beside a textbook's code", "fuzz": "Damaged and hostile input"}
STORY = "notebooks/story"
SLIDERS = "Run this cell in JupyterLab to move "  # what a notebook says in place of sliders, without a front end
COLUMN = 720  # pixels that a figure of column width has at most
GALLERIES = {"docs/gallery": "figure", "docs/tables": "table"}
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


# --- galleries ---


def add_gallery(app: Sphinx, docname: str, source: list[str]) -> None:
    """Figures or tables of the manifests, with what each was made from, follow the text of a page of ``GALLERIES``."""
    if docname not in GALLERIES:
        return
    for folder in sorted(file.parent for file in paths.FIGURES.glob("*/manifest.json")):
        if not folder.name.endswith(("-own", "-shipped")):  # which are not committed
            app.env.note_dependency(str(folder / "manifest.json"))
            rows = [row for row in manifest(folder) if row["kind"] == GALLERIES[docname]]
            source[0] += "".join(entry(row, folder) for row in rows)


def entry(row: dict, folder: Path) -> str:
    """A figure or table of a manifest in Markdown: heading, picture or cells, words, and provenance."""
    name, place = row["name"], f"../{folder.relative_to(paths.ROOT).as_posix()}"
    shown = f"![{row['alt']}]({place}/{name}.png)"
    if row["kind"] == "table":
        shown = (folder / f"{name}.md").read_text(encoding="utf-8")
    made_from = {"Made by": made_by(name), "Profile": row["profile"], "Data": ", ".join(map(title, row["datasets"])),
                 "Records": str(len(row["runs"]) or "none: made in the notebook"),
                 "Files": " ".join(f"[{file}](path:{place}/{file})" for file in row["files"])}
    listed = "\n".join(f"- **{heading}:** {text}" for heading, text in made_from.items() if text)
    text = f"\n\n## {name} ({row['profile']})\n\n{shown}\n\n{row['alt']}\n\n{listed}\n"
    if row["runs"]:
        records = "\n".join(f"- `{run}`, digest {digest}" for run, digest in row["runs"].items())
        text += f"\n<details><summary>The records</summary>\n\n{records}\n\n</details>\n"
    return text


def made_by(name: str) -> str:
    """A link to the notebook that saves a figure or table."""
    found = (notebook for pattern, notebook in saved_in().items() if re.fullmatch(pattern, name))
    return next((f"[{notebook}](../notebooks/{notebook}.ipynb)" for notebook in found), "no committed notebook")


@cache
def saved_in() -> dict[str, str]:
    """Notebook by the pattern of each name that it saves; a field of an f-string stands for any text."""
    return {re.sub(r"\{.*?\}", ".+", name): file.stem for file in sorted(paths.NOTEBOOKS.glob("*.ipynb"))
            for cell in read(file).cells for name in SAVED.findall(cell.source)}


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
    """Write the page that a server shows first."""
    if error is None and app.builder.format == "html":
        start = START.format(title=app.config.project, page=f"{app.config.root_doc}.html")
        (Path(app.outdir) / "index.html").write_text(start, encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Sphinx's entry point."""
    app.setup_extension("sphinx.ext.autosummary")
    known = getattr(autosummary, "WELL_KNOWN_ABBREVIATIONS", ())
    autosummary.WELL_KNOWN_ABBREVIATIONS = (*known, "Eq.", "Fig.", "Figs.")  # which end no sentence
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("config-inited", forget_pages)
    app.connect("source-read", add_heading)
    app.connect("source-read", add_gallery)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-read", offer_laboratory)
    app.connect("doctree-read", mark_wide_images)
    app.connect("doctree-resolved", link_modules)
    app.connect("autodoc-process-docstring", mend_docstring)
    app.connect("html-page-context", offer_slides)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
