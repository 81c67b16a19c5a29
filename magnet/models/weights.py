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

    Raises ValueError where a tensor is missing, left over, of another shape or not finite; the model stays as it was.
    """
    own = model.state_dict()
    if problems := differences(own, given):
        shown = "; ".join(_as_read(problem, names or {}) for problem in problems[:5])
        found = f"differences: {len(problems)}, first {shown}"
        raise ValueError(f"{label} does not fit this network; {found}. {_likely_reason(own, given, problems)}")
    model.load_state_dict(given, assign=assign)


def differences(own: Tensors, given: Tensors) -> list[str]:
    """What keeps `given` from filling a network's own tensors, a line each in its order; empty where it fits."""
    problems = []
    for name, tensor in own.items():
        if name not in given:
            problems.append(f"{name} is missing")
        elif given[name].shape != tensor.shape:
            problems.append(f"{name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}")
        elif not given[name].isfinite().all():
            problems.append(f"{name} is not finite")
    return problems + [f"{name} has no place" for name in given if name not in own]


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
