"""Looking at what a model answers, one expression at a time, in a notebook.

    from magnet.explore import FailureExplorer
    FailureExplorer("refshapes-tiny", split="testB")

What a widget shows is made by files without a widget in them (failures, filters, notes, export, differences), so
everything works from a script, too.
"""

from importlib import import_module

_LAZY = {  # public name -> module that defines it
    "CompareRuns": "compare", "FailureExplorer": "explorer", "PhrasePlayground": "playground",
    "ProposalViewer": "proposals",
}  # fmt: skip
__all__ = [*_LAZY]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
