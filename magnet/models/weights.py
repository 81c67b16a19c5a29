"""Tensors from a file into a network: strictly, or with the first five that differ and the likely reason."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Tensors = Mapping[str, Tensor]


FEW = 3  # tensors that differ where the rest of a network fits


class WithoutStart(TorchDispatchMode):
    """While it is entered, parameters get no initial values: for a network whose tensors are all replaced. Memory that
    nobody writes to is never given out."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        changes_parameter = func.overloadpacket.__name__.endswith("_") and isinstance(args[0], nn.Parameter)
        return args[0] if changes_parameter else func(*args, **(kwargs or {}))


def fill(
    model: nn.Module, given: Tensors, label: str, assign: bool = False, names: Mapping[str, str] | None = None
) -> None:
    """Put every tensor in its place. `label` names what they were read from; assign: take the tensors themselves, which
    then belong to the model, instead of copying them; names: what tensors are called where they were read from.

    Raises ValueError where a tensor is missing, left over, of another shape or kind, or not finite; the model stays as
    it was. Numbers of another precision become the network's.
    """
    own = model.state_dict()
    if problems := differences(own, given):
        shown = "; ".join(_as_read(problem, names or {}) for problem in problems[:5])
        found = f"differences: {len(problems)}, first {shown}"
        raise ValueError(f"{label} does not fit this network; {found}. {_likely_reason(own, given, problems)}")
    model.load_state_dict({name: given[name].to(tensor.dtype) for name, tensor in own.items()}, assign=assign)


def differences(own: Tensors, given: Tensors) -> list[str]:
    """What keeps `given` from filling a network's own tensors, a line each in its order; empty where it fits."""
    problems = []
    for name, tensor in own.items():
        if name not in given:
            problems.append(f"{name} is missing")
        elif given[name].shape != tensor.shape:
            problems.append(f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}")
        elif not _is_alike(given[name], tensor):
            problems.append(f"{name} holds {_kind(given[name])}, not {_kind(tensor)}")
        elif not given[name].to(tensor.dtype).isfinite().all():
            problems.append(f"{name} is not finite")
    return problems + [f"{name} has no place" for name in given if name not in own]


def _is_alike(given: Tensor, own: Tensor) -> bool:
    """Whether both are plain numbers, with a fraction or without: more or fewer digits do not matter."""
    return given.layout == own.layout and given.is_floating_point() == own.is_floating_point() and _is_real(given)


def _is_real(tensor: Tensor) -> bool:
    return not (tensor.is_complex() or tensor.is_quantized)


def _kind(tensor: Tensor) -> str:
    kinds = (str(kind).removeprefix("torch.") for kind in (tensor.layout, tensor.dtype))
    return " ".join(kind for kind in kinds if kind != "strided")


def _as_read(problem: str, names: Mapping[str, str]) -> str:
    """With the name that the reader of a file can look up in it."""
    name, what = problem.split(" ", 1)
    return f"{names.get(name, name)} {what}"


_REASONS = {  # where all problems are of one kind
    "is missing": "It was saved in parts or cut short: fetch it again",
    "has no place": "It holds more than this network: leave these tensors out",
    "is not finite": "It was damaged, or training had diverged: fetch or train it again",
}


def _likely_reason(own: Tensors, given: Tensors, problems: list[str]) -> str:
    for kind, reason in _REASONS.items():
        if all(problem.endswith(kind) for problem in problems):
            return reason
    if len(problems) <= FEW and len(own) > 10 * FEW:
        return "All others fit: these were changed or damaged"
    here, there = ({name.split(".")[0] for name in names} for names in (own, given))
    unlike = {"has": there - here, "lacks": here - there}
    said = [f"{verb} {', '.join(sorted(parts))}" for verb, parts in unlike.items() if parts]
    if said:
        return f"It is another kind of network: it {' and '.join(said)}"
    return "It is of another size or kind, as a whole or in the parts named: use the configuration it was made with"
