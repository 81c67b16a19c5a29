"""A JupyterLab of one's own to test in: a server on a free port, and what a person does in its window."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for any one thing: the machine may be busy, and what is there is found at once
LONGEST = 600  # the same for all cells of a notebook
ERROR = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
OF_ITS_OWN = ("Could not restore the debugger state",)  # JupyterLab says so when a kernel restarts early
NO_QUESTIONS = {"fetchNews": "false", "checkForUpdates": False}  # that JupyterLab asks when it first opens


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks in `folder`, where all that they write stays; gives its address."""
    for part in ("notebooks", "results/figures"):
        shutil.copytree(ROOT / part, folder / part)
    address = f"http://localhost:{_free_port()}/lab?token={secrets.token_hex()}"
    command = [*_command(address), f"--ServerApp.root_dir={folder}"]
    with (folder / "jupyter.log").open("w") as log:
        server = subprocess.Popen(command, env=_environment(folder), stdout=log, stderr=log)
    try:
        _wait_for(server, address, folder / "jupyter.log")
        yield address
    finally:
        server.terminate()  # its kernels end with it
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # seen once, on a busy machine
            server.kill()
            server.wait()


def _command(address: str) -> list[str]:
    port, token = address.split(":")[2].split("/")[0], address.split("=")[1]
    root = ["--allow-root"] if os.geteuid() == 0 else []
    options = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--no-browser", *root]
    return [sys.executable, "-m", "jupyter", "lab", *options]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own settings, and none left behind."""
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
    own = {name: str(folder / "jupyter" / name) for name in names}
    settings = folder / "jupyter" / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NO_QUESTIONS))
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(settings.parents[1]), "MAGNET_SMOKE": "1"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **own}


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("localhost", 0))
        return any_port.getsockname()[1]


def _wait_for(server: subprocess.Popen, address: str, log: Path) -> None:
    for _ in range(10 * PATIENCE):
        try:
            return urlopen(address, timeout=PATIENCE).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
    raise TimeoutError(f"JupyterLab does not answer: {log.read_text()}")


class Lab:
    """One window of a JupyterLab, 1280 × 800, and what it complains about in `errors`."""

    def __init__(self, browser: Browser, address: str, folder: Path):
        self.folder, self.errors = folder, []
        self.page: Page = browser.new_page(viewport={"width": 1280, "height": 800})
        self.page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(address)

    def _hear(self, said: ConsoleMessage) -> None:
        if said.type == "error" and not said.text.startswith(OF_ITS_OWN):
            self.errors.append(f"{said.text} ({said.location['url']})")

    def find(self, selector: str) -> Locator:
        """In the notebook that is open."""
        return self.page.locator(f".jp-NotebookPanel:not(.lm-mod-hidden) {selector}")

    def open(self, name: str) -> None:
        """Open notebooks/`name` from the list of files by a double click, and wait for its kernel."""
        files = self.page.locator(".jp-DirListing-item")
        files.filter(has_text=name).or_(files.filter(has_text="notebooks")).first.wait_for()
        if not files.filter(has_text=name).count():
            files.filter(has_text="notebooks").dblclick()
        files.filter(has_text=name).dblclick()
        self.find(".jp-Notebook").wait_for()
        self.page.locator("#jp-main-statusbar").get_by_text("(ipykernel) | Idle").wait_for()

    def run_all(self) -> None:
        """Restart the kernel and run every cell; fails with what a cell's error says."""
        self.find("[data-jp-item-name=restart-and-run] jp-button").click()
        self._wait_for_cells()
        prompts = [text for text in self.find(".jp-CodeCell .jp-InputPrompt").all_inner_texts() if text]
        assert prompts[-1] == f"[{len(prompts)}]:", self.find(ERROR).all_inner_texts()

    def run_up_to(self, widget: str) -> None:
        """Restart the kernel and run the cells as far as the first with a widget of that selector."""
        cell = self.find(".jp-Cell").filter(has=self.page.locator(widget)).first
        cell.locator(".jp-InputPrompt").first.click()
        self._choose("Kernel", "Restart Kernel and Run up to Selected Cell…")
        self._wait_for_cells()

    def _wait_for_cells(self) -> None:
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()
        waiting = self.find(".jp-InputPrompt").get_by_text("[*]:", exact=True)
        waiting.first.wait_for(state="attached")
        expect(waiting).to_have_count(0, timeout=1000 * LONGEST)

    def _choose(self, *path: str) -> None:
        """From the menus at the top of the window."""
        self.page.locator(".lm-MenuBar-item").get_by_text(path[0], exact=True).click()
        for name in path[1:]:
            self.page.locator(".lm-Menu-item").get_by_text(name, exact=True).click()

    def theme(self, name: str) -> None:
        self._choose("Settings", "Theme", name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")

    def look(self, widget: Locator, name: str) -> None:
        """A picture of the window with the widget in it, to look at."""
        widget.evaluate("one => one.scrollIntoView({block: 'start'})")
        self.page.screenshot(path=self.folder / f"{name}.png")


def cut_off(widget: Locator) -> list[str]:
    """What of a widget lies outside its notebook, or of a page outside the window, or does not fit its own box; lists
    of choices may scroll."""
    return widget.evaluate(
        """whole => {
          const around = whole.closest(".jp-WindowedPanel-outer, .jp-Notebook") ?? document.documentElement;
          const edge = around.getBoundingClientRect().right;
          return [...whole.querySelectorAll("*")].filter(one =>
            one.checkVisibility() && !one.closest("select, svg") && (one.getBoundingClientRect().right > edge + 1
            || (one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== "visible")))
            .map(one => one.outerHTML.slice(0, 200));
        }"""
    )


def faint(widget: Locator, least: float = 4.5) -> list[str]:
    """The texts of a widget whose contrast with what is behind them is below that of WCAG's level AA."""
    return widget.evaluate(
        """(whole, least) => {
          const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
          const light = colour => numbers(colour).slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
          const behind = one => {
            for (; one; one = one.parentElement) {
              const colour = getComputedStyle(one).backgroundColor, parts = numbers(colour);
              if (parts.length < 4 || parts[3] > 0.5) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          const says = one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
          return [...whole.querySelectorAll("*")].filter(one => {
            if (!one.checkVisibility() || !says(one) || one.matches("style")) return false;
            const [dark, bright] = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => a - b);
            return (bright + 0.05) / (dark + 0.05) < least;
          }).map(one => `${one.textContent.slice(0, 60)}: ${getComputedStyle(one).color} on ${behind(one)}`);
        }""",
        least,
    )
