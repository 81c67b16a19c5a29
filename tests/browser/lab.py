"""A JupyterLab of one's own to test in: a server on a free port, and what a person does in its window."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
QUIET = {  # questions that JupyterLab asks when it opens for the first time
    "notification": {"fetchNews": "false", "checkForUpdates": False},
}
SECONDS = 120_000  # milliseconds, the longest wait for one thing: other work may run on the machine


class Lab:
    """A running server. Its folder holds a copy of the notebooks and all that they write."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.token = folder, secrets.token_hex()
        self.url = f"http://localhost:{port}/lab"
        shutil.copytree(NOTEBOOKS, folder / "notebooks")
        places = {f"JUPYTER{name}_DIR": str(folder / "jupyter" / name.strip("_").lower()) for name in PLACES}
        environment = {**os.environ, "MAGNET_SMOKE": "1", **places}
