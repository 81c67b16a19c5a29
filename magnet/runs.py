"""The run folder: results/runs/<recipe>-<hash>/ holds a run's configuration, log, weights and results.

The hash covers what is trained and not where, so the same configuration finds its run again. Everything is written to a
temporary file first and then renamed: a reader, or a killed writer, never sees half a file.
"""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dacite
from safetensors import SafetensorError

import magnet
from magnet.config import Config, ModelConfig

ROOT = Path("results/runs")
SHIPPED = Path(__file__).parent / "assets" / "weights"  # <name>/config.json, model.safetensors, README.md
ELSEWHERE = Path("results/explore")  # what is the user's about weights whose folder is not
VERSION = 1  # of the folder's layout; a newer one is refused, not guessed at


def atomic_write(path: Path | str, write: Callable[[Path], Any]) -> Path:
    """Have `write(temporary)` write a file, then move it to `path` in one step; on failure `path` is untouched.

    Raises OSError (a full disk, say) naming `path`; the temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is what a full disk looks like from safetensors
        number, why = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        said = f"could not write {path}: {why}; what was there is kept"
        raise (OSError(number, said) if number else OSError(said)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def free_path(path: Path) -> Path:
    """The path itself, or, where it is taken, b-2.json for b.json, or the first number that is free."""
    found, number = path, 2
    while found.exists():
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return found


def write_json(path: Path | str, value: Any) -> Path:
    return atomic_write(path, lambda file: file.write_text(json.dumps(value, indent=1) + "\n"))


def read_json(path: Path | str) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); delete it, or fetch it again") from error


def config_to_dict(config: Any) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))  # paths


def config_from_dict(values: dict, kind: type = Config) -> Any:
    """Build a `Config` (or a part of one) from JSON; unknown or ill-typed fields raise ValueError."""
    settings = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _as_float})
    try:
        return dacite.from_dict(kind, values, settings)
    except dacite.WrongTypeError as error:
        choices = getattr(error.field_type, "__args__", None) if "Literal" in str(error.field_type) else None
        named = f"one of {', '.join(map(repr, choices))}" if choices else f"a {error.field_type}"
        raise ValueError(f"{error.field_path}={error.value!r}: {named} is needed") from error
    except (dacite.DaciteError, TypeError) as error:
        raise ValueError(f"not a {kind.__name__} of this version of magnet: {error}") from error


def _as_float(value: Any) -> Any:
    """JSON may have 1 for 1.0; what is no number stays what it is, and is refused by its type."""
    return float(value) if type(value) is int else value


def _hashed(config: Any) -> Any:
    """Without what is as it is by default: a setting that is new in this version renames no run, no study's result."""
    if not dataclasses.is_dataclass(config):
        return list(config) if isinstance(config, tuple) else config
    fields = [f for f in dataclasses.fields(config) if not f.metadata.get("unhashed")]
    values = {f.name: _hashed(getattr(config, f.name)) for f in fields}
    return {f.name: values[f.name] for f in fields if values[f.name] != _hashed(_default(f))}


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def config_hash(config: Config, start: str | None = None) -> str:
    """Ten hexadecimal digits of the hashed fields and the weights started from.

    Not of all that changes numbers: neither of machine and versions, and so of the precision that "auto" becomes, nor
    of how a batch is split (`num_processes`, `micro_batch`), which BatchNorm sees.
    """
    text = json.dumps([_hashed(config), start], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def environment() -> dict:
    """Versions, hardware and commit, for environment.json."""
    import psutil
    import torch

    from magnet.optimizer import has_bfloat16

    cpu = f"{platform.machine()}, {psutil.cpu_count()} cores, {torch.get_num_threads()} threads"
    packages = ("torch", "torchvision", "timm", "transformers", "accelerate", "numpy", "pandas")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages} | {"magnet-workbench": magnet.__version__},
        "processor": f"{cpu}, {'' if has_bfloat16(torch.device('cpu')) else 'no '}bfloat16",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "commit": _commit(),
    }


def _commit() -> str | None:
    """With -dirty where a file is not as committed, except tables and figures: a command that has just written its
    first does not make its second doubtful."""
    if not shutil.which("git"):
        return None
    commit = _git("describe", "--always", "--abbrev=12")
    made = (f":(top,exclude)results/{kind}" for kind in ("tables", "figures"))
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *made)
    return (f"{commit}-dirty" if changed else commit) or None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=folder).stdout.strip()


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path
    config: Config

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_shipped(self) -> bool:
        """Whether its weights come with the package."""
        return self.folder.parent == SHIPPED

    @property
    def outputs(self) -> Path:
        """Where pages about it go: its folder; results/explore/NAME for shipped weights, whose folder is no user's."""
        return ELSEWHERE / self.name if self.is_shipped else self.folder

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def checked_weights(self) -> Path:
        """The file `weights`; FileNotFoundError says how it is made where no validation has written it yet."""
        if not self.weights.exists():
            command = f"magnet train {self.config.recipe}"
            raise FileNotFoundError(f"{self.weights} does not exist yet; train it with: {command}")
        return self.weights

    @property
    def language(self) -> Path:
        """The settings of a language encoder that came pretrained."""
        return self.folder / "language.json"

    @property
    def origin(self) -> Path:
        """Which released file the weights were converted from."""
        return self.folder / "released.json"

    @property
    def vocabulary(self) -> Path:
        """Words that came with the weights."""
        return self.folder / "vocabulary"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint" / "last.safetensors"

    @property
    def is_finished(self) -> bool:
        return (self.folder / "finished.json").exists() and self.weights.exists()

    def log(self) -> list[dict]:
        """The lines of log.jsonl; a last line cut short by a kill is left out."""
        path = self.folder / "log.jsonl"
        *lines, _ = path.read_text().split("\n") if path.exists() else [""]  # behind the last whole line
        return [json.loads(line) for line in lines]

    @property
    def network(self) -> ModelConfig:
        """The configuration of its network without what it first started from: all tensors are in the run."""
        vision = dataclasses.replace(self.config.model.vision, pretrained=None)
        language = dataclasses.replace(self.config.model.language, pretrained=None)
        if self.language.exists():  # the sizes of a pretrained encoder, which the configuration does not hold
            language = dataclasses.replace(language, options=language.options | read_json(self.language))
        return dataclasses.replace(self.config.model, vision=vision, language=language)

    def load_model(self):
        """The run's best weights in its network, in evaluation mode."""
        from magnet.models import build_model
        from magnet.models.weights import WithoutStart

        weights = self.checked_weights()
        with WithoutStart():
            model = build_model(self.network)
        load_weights(model, weights)
        return model.eval()


def read_tensors(path: Path | str) -> dict:
    """The tensors of a safetensors file; a truncated file raises ValueError naming it."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run the command that made it again") from error


def load_weights(model, path: Path | str) -> None:
    """Fill `model` from a safetensors file, strictly: the first five tensors that differ are named."""
    fill(model, read_tensors(path), path)


def fill(model, tensors: dict, path: Path | str) -> None:
    from magnet.models import weights  # here: a run folder is read without a network

    weights.fill(model, tensors, str(path))


def open_run(config: Config, start: str | None = None) -> Run:
    """The folder of this configuration, made where it does not exist yet.

    Args: start: a fingerprint of the weights training starts from, part of the hash.
    Raises ValueError where the folder holds another configuration or comes from a newer version.
    """
    config = config_from_dict(config_to_dict(config))  # as it will be read again: 1 for a float is 1.0
    folder = ROOT / f"{config.recipe}-{config_hash(config, start)}"
    if (folder / "config.json").exists():
        found = read_run(folder).config
        if config_hash(found, start) != config_hash(config, start):
            raise ValueError(f"{folder} holds another configuration than its name says; move it away and train again")
        if found != config:  # in what is not hashed: the newest counts, for every process of the training
            write_json(folder / "config.json", {"version": VERSION, **config_to_dict(config)})
    else:
        write_json(folder / "environment.json", environment())  # before what makes the folder a run's
        write_json(folder / "config.json", {"version": VERSION, **config_to_dict(config)})
    return Run(folder, config)


def read_run(folder: Path | str) -> Run:
    """An existing run folder. Raises FileNotFoundError or ValueError with what is wrong."""
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no config.json. {_known_runs()}")
    values = read_json(path)
    if (found := values.pop("version", None)) != VERSION:
        remedy = f"this magnet reads {VERSION}; update with: pip install -U ."
        raise ValueError(f"{path} has layout version {found}, {remedy}")
    try:
        return _with_own_words(Run(Path(folder), config_from_dict(values)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _with_own_words(run: Run) -> Run:
    """Words that lie in the folder are used wherever it is read from."""
    if not run.vocabulary.is_dir():
        return run
    language = dataclasses.replace(run.config.model.language, vocabulary=str(run.vocabulary.resolve()))
    model = dataclasses.replace(run.config.model, language=language)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))


def find(source: "str | Path | Run") -> Run:
    """A run by its folder, by its weights, by its name under results/runs or among shipped weights, or by a recipe: its
    newest."""
    if isinstance(source, Run):
        return source
    path = Path(source)
    for folder in (path, *([path.parent] if path.suffix else []), ROOT / path.name, SHIPPED / path.name):
        if (folder / "config.json").exists():
            return read_run(folder)
    if path.is_file():
        raise ValueError(f"{path} is a file of weights, not a run; released ones are read by magnet.load_released")
    if path.name == str(source):  # a recipe: its newest with weights, else its newest at all
        for made in ("model.safetensors", "config.json"):
            newest = sorted(ROOT.glob(f"{source}-*/{made}"), key=lambda p: p.stat().st_mtime)
            if newest:
                return read_run(newest[-1].parent)
    raise FileNotFoundError(f"no run and no file {str(source)!r}. {_known_runs()}")


def _known_runs() -> str:
    names, shipped = (sorted(p.parent.name for p in folder.glob("*/config.json")) for folder in (ROOT, SHIPPED))
    known = f"Runs in {ROOT}: {', '.join(names)}" if names else f"{ROOT} is empty; make a run with: magnet demo"
    return f"{known}. Shipped weights: {', '.join(shipped) or 'none'}."
