"""The book: Sphinx over the committed notebooks and texts, with nothing loaded from the network (``make book``).

The source folder is the repository's root, so that links between README, docs and notebooks hold on built pages as they
do in the checkout.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from fmuc import __version__  # noqa: E402

project = "FixMatch with uncertainty, for audio"
author = "The fmuc authors"
release = version = __version__
root_doc = "docs/index"
language = "en_GB"
extensions = ["myst_nb", "sphinx.ext.viewcode", "book_pages", "laboratory"]
include_patterns = ["README.md", "CHANGELOG.md", "data/README.md", "docs/*.md", "docs/api/*.rst", "figures/*.md",
                    "notebooks/*.ipynb", "notebooks/solutions/*.ipynb"]
exclude_patterns = [".*", "**/.ipynb_checkpoints", "build", "data/[!R]*"]

nb_execution_mode = "off"  # the committed outputs, which tests hold equal to the records
nb_ipywidgets_js = {}  # require.js and widgets of a content delivery network; the plots under the widgets stand alone
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_render_markdown_format = "myst"  # tables in outputs are tables
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
html_math_renderer = "mathml"  # of book_pages: browsers draw it themselves

autosummary_generate = True
autosummary_ignore_module_all = False  # a module's own names, not those it passes on
autodoc_default_options = {"members": True, "member-order": "bysource"}
viewcode_follow_imported_members = False  # a name's source is shown where it is documented
autodoc_typehints = "none"  # they stand in the signature of the source; docstrings give shapes and units

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "monokai"
