"""MagNet workbench: referring image segmentation one can take apart.

Heavy libraries load on first use, so `import magnet` is quick.
"""

import sys
from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_LAZY = {  # public name -> module that defines it
    "recipe": "recipes", "build_model": "models", "load_released": "models.released", "load": "predictor",
    "fit": "train", "evaluate": "evaluate", "score": "evaluate", "summarize": "statistics", "compare": "statistics",
}  # fmt: skip
_MODULES = (
    "config", "recipes", "data", "models", "losses", "train", "metrics", "statistics", "runs", "predictor", "refshapes",
    "workbench", "explore",
)  # fmt: skip
__all__ = [*_LAZY, *_MODULES]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name == "notebook":  # where people look for it: magnet.notebook.setup()
        return import_module(f"{__name__}.workbench.notebook")
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    def __setattr__(self, name, value):
        if not (name in _LAZY and isinstance(value, ModuleType)):  # magnet.evaluate stays the function, not its module
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
