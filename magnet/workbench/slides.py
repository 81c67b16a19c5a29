"""A notebook as slides: a heading begins one, code goes below it.

jupyter nbconvert --to slides --output-dir slides --SlidesExporter.reveal_scroll=True \
    --SlidesExporter.preprocessors="['magnet.workbench.slides.ByHeading']" notebooks/04_fusion.ipynb
"""

import re

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode, v4

HEADING = re.compile(r"^(?=##? )", flags=re.M)


class ByHeading(Preprocessor):
    """Marks cells as slides, so that the notebooks need no slide metadata of their own.

    A heading begins a slide, to the right; a code cell one below it. Other text stays with what it explains. A text
    cell with several headings is cut at them.
    """

    def preprocess(self, notebook: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """The notebook with its cells cut and marked; resources as they are."""
        notebook.cells = [part for cell in notebook.cells for part in _parts(cell)]
        return notebook, resources


def _parts(cell: NotebookNode) -> list[NotebookNode]:
    if cell.cell_type != "markdown":
        return [_marked(cell, "subslide")]
    texts = [text for text in HEADING.split(cell.source) if text.strip()]
    return [_marked(v4.new_markdown_cell(text), "slide" if HEADING.match(text) else "-") for text in texts]


def _marked(cell: NotebookNode, kind: str) -> NotebookNode:
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell
