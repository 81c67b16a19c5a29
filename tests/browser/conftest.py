"""A real browser for the tests: Debian's chromium, driven by Playwright; skipped, or a failure, where it is missing."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = "these tests need a browser: apt-get install chromium (or have one as chromium or google-chrome on the PATH), "
HOW += "and pip install -e .[dev] for playwright"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Playwright's Browser. Without one: skipped, but a failure where MAGNET_BROWSER=1 says that there must be one."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if not program or not find_spec("playwright"):
        (pytest.fail if os.environ.get("MAGNET_BROWSER") == "1" else pytest.skip)(HOW)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root chromium refuses to start with it
        opened = playwright.chromium.launch(executable_path=program, args=arguments)
        yield opened
        opened.close()
