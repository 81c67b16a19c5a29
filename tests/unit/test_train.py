import dataclasses
import errno
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import PARTS, same_weights, tiny_config
from safetensors.torch import load_file, save_file

import magnet
from magnet import losses, optimizer, runs, train
from magnet.config import OptimConfig, VisionConfig
from magnet.data.sampler import StepSampler
from magnet.losses.grounding import MaskGrounding
from magnet.models import build_model
from magnet.objective import Objective

# --- pieces -----------------------------------------------------------------------------------------------------------


def test_schedules_warm_up_and_end_at_zero():
    polynomial = OptimConfig(lr=1.0, warmup_steps=10)
    assert [optimizer.learning_rate(polynomial, step, 110) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert optimizer.learning_rate(polynomial, 60, 110) == pytest.approx(0.5**0.9)
    cosine = dataclasses.replace(polynomial, schedule="cosine")
    assert optimizer.learning_rate(cosine, 60, 110) == pytest.approx(0.5)
    assert (
        optimizer.learning_rate(cosine, 110, 110) == pytest.approx(0) == optimizer.learning_rate(polynomial, 110, 110)
    )


def test_decay_spares_norms_biases_and_position_tables():
    model = magnet.build_model(tiny_config().model)
    made = optimizer.build_optimizer(model, OptimConfig(frozen=("^language",)))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    rates = {name: decay.get(id(p)) for name, p in model.named_parameters()}
    assert all(rate is None for name, rate in rates.items() if name.startswith("language"))
    tables = {name: rate for name, rate in rates.items() if "relative_position_bias_table" in name}
    assert tables and set(tables.values()) == {0.0}
    assert rates["norms.0.weight"] == rates["fusions.0.key.bias"] == 0.0 and rates["fusions.0.key.weight"] == 0.01


def test_parts_can_have_rates_of_their_own(run_root):
    """Adam's first step moves a weight by its rate, whatever the gradient."""
    config = tiny_config(num_steps=1, lr=1e-3, rates={"^language": 0.1, "embed": 9.0}, weight_decay=0.0, clip_norm=None)
    torch.manual_seed(config.seed)
    start = Objective(config).state_dict()
    saved = load_file(magnet.fit(config, progress=False).checkpoint)
    names = ("language.encoder.embeddings.word_embeddings.weight", "fusions.0.pixel.weight")
    words, pixels = ((saved[f"model.{name}"] - start[f"model.{name}"]).abs().max().item() for name in names)
    assert words / pixels == pytest.approx(0.1, rel=0.02)


def sampled(start=0, stop=6, process=0, num_processes=1, num_items=10, **optim):
    return list(
        StepSampler(num_items, True, 7, start, stop, OptimConfig(batch_size=8, **optim), process, num_processes)
    )


def test_the_sampler_visits_every_item_once_an_epoch():
    stream = [item for batch in sampled(stop=5) for item in batch]  # 40 positions: four epochs of ten
    for epoch in range(4):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10 * epoch, 10 * epoch + 10))
    assert stream[:10] != [item - 10 for item in stream[10:20]]


def test_the_sampler_resumes_shards_and_splits():
    whole = sampled()
    assert sampled(start=4) == whole[4:]
    shards = zip(*(sampled(process=p, num_processes=2) for p in range(2)))
    assert [sorted(a + b) for a, b in shards] == [sorted(batch) for batch in whole]
    halves = sampled(micro_batch=4)
    assert [a + b for a, b in zip(halves[::2], halves[1::2])] == whole
    with pytest.raises(ValueError, match=r"batch_size 8 .* 3 processes"):
        sampled(num_processes=3)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_precision_that_the_machine_lacks_is_refused(monkeypatch, device):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    device = torch.device(device)
    assert optimizer.choose_precision(OptimConfig(), device) == "float32"
    with pytest.raises(ValueError, match=rf"this {device} has no bfloat16 .*choose --optim.precision float32"):
        optimizer.choose_precision(OptimConfig(precision="bfloat16"), device)


def test_no_other_device_is_taken_than_a_cpu_or_cuda(run_root, monkeypatch, request):
    """Where the library would take one that nothing here was tried on."""
    monkeypatch.setattr("accelerate.state.is_mps_available", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    forget = partial(AcceleratorState._reset_state, reset_partial_state=True)
    request.addfinalizer(forget)
    forget()
    run = magnet.fit(tiny_config(num_steps=1, val_every=1), progress=False)
    assert run.is_finished


# --- whole runs -------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_found_and_holds_everything(run_root):
    run = magnet.fit(tiny_config(), progress=False)
    lines = [line for line in run.log() if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all(line["loss"] == pytest.approx(sum(line["weighted"].values())) for line in lines)
    assert [line["step"] for line in run.log() if "validation" in line] == [6, 12]
    before = run.weights.stat().st_mtime_ns
    assert magnet.fit(tiny_config(), progress=False).weights.stat().st_mtime_ns == before
    assert not list(run_root.rglob("*.tmp")) and not list(run_root.rglob("*.pkl"))
    assert runs.find(run.name).load_model()(*inputs())["mask_logits"].shape == (2, 32, 32)


def inputs(num=2):
    return torch.randn(num, 3, 32, 32), torch.full((num, 20), 6), torch.ones(num, 20, dtype=torch.long)


def test_training_learns_a_few_pictures_by_heart(run_root):
    config = tiny_config(num_steps=150, val_every=150, val_expressions=None, lr=5e-3, batch_size=12)
    data = dataclasses.replace(config.data, fresh=False, sentences="all", train_split="testA", val_split="testA")
    run = magnet.fit(dataclasses.replace(config, data=data, losses={"dice": 1.0}), progress=False)
    loss = [line["loss"] for line in run.log() if "loss" in line]
    assert sum(loss[-10:]) < 0.3 * sum(loss[:10])
    assert run.log()[-1]["validation"]["oIoU"] > 70


def test_accumulation_follows_the_whole_batch(run_root):
    losses_of = []
    for micro in (None, 2):
        config = tiny_config(micro_batch=micro)
        run = magnet.fit(dataclasses.replace(config, recipe=f"micro_{micro}"), progress=False)
        losses_of.append([line["loss"] for line in run.log() if "loss" in line])
    assert losses_of[0] == pytest.approx(losses_of[1], abs=1e-5)


def test_starting_from_given_weights(run_root):
    first = magnet.fit(tiny_config(), progress=False)
    still = tiny_config(num_steps=1, val_every=1, lr=0.0)
    second = magnet.fit(still, init=first, progress=False)
    assert second.name != runs.open_run(still).name, "a run from given weights has a name of its own"
    a, b = load_file(first.weights), load_file(second.weights)
    assert all(torch.equal(a[name], b[name]) for name in a)


def with_parts(passes: int = 2, **optim):
    config = dataclasses.replace(tiny_config(**optim), **PARTS)
    return dataclasses.replace(config, grounding=dataclasses.replace(config.grounding, passes=passes))


@pytest.mark.parametrize("passes", [1, 2])
def test_training_only_parts_are_logged_and_leave_no_weights_behind(run_root, passes):
    plain, run = magnet.fit(tiny_config(), progress=False), magnet.fit(with_parts(passes), progress=False)
    assert load_file(run.weights).keys() == load_file(plain.weights).keys()
    saved, without = (load_file(r.checkpoint) for r in (run, plain))
    extra = {name.split(".")[0] for name in saved.keys() - without.keys()}
    assert extra == {"grounding", "alignment", "optimizer"}
    lines = [line for line in run.log() if "loss" in line]
    assert list(lines[0]["raw"]) == ["cross_entropy", "dice", "grounding", "pixel_pixel", "pixel_text"]
    assert all(line["loss"] == pytest.approx(sum(line["weighted"].values())) for line in lines)
    assert lines[0]["weighted"]["pixel_text"] == pytest.approx(0.1 * lines[0]["raw"]["pixel_text"])
    assert all(0 <= line["grounding_accuracy"] <= 1 and line["grounding_hidden_tokens"] > 0 for line in lines)
    first = plain.log()[0]
    assert (first["raw"]["dice"] == lines[0]["raw"]["dice"]) == (passes == 2), "one pass reads the hidden words"


def test_what_is_frozen_keeps_its_averages_too(run_root):
    config = tiny_config()
    vision = VisionConfig(name="resnet10t", options={"layers": (1, 1, 1, 1), "channels": (8, 16, 16, 16)}, drop_path=0)
    config = replace(config, model=replace(config.model, vision=vision))
    config = replace(config, optim=replace(config.optim, frozen=(r"^vision\.body\.(conv1|bn1|layer1)",)))
    torch.manual_seed(config.seed)
    before = build_model(config.model).state_dict()
    after = magnet.fit(config, progress=False).load_model().state_dict()
    averages = [name for name in before if name.endswith("running_mean")]
    same = {name: torch.equal(before[name], after[name]) for name in averages}
    assert all(kept == bool(re.match(r"vision\.body\.(conv1|bn1|layer1)", name)) for name, kept in same.items())
    assert 0 < sum(same.values()) < len(same)


def test_training_only_parts_are_optimised(run_root):
    config = with_parts()
    torch.manual_seed(config.seed)
    start = Objective(config).state_dict()
    saved = load_file(magnet.fit(config, progress=False).checkpoint)
    parts = [name for name in start if not name.startswith("model.")]
    assert len(parts) > 40 and not [name for name in parts if torch.equal(start[name], saved[name])]


def test_frozen_parameters_are_named_as_in_the_network_or_by_their_part():
    objective = Objective(with_parts())
    made = optimizer.build_optimizer(objective, OptimConfig(frozen=("^language", r"^grounding\.bias")))
    trained = {id(p) for group in made.param_groups for p in group["params"]}
    fixed = {name for name, p in objective.named_parameters() if id(p) not in trained}
    language = {name for name, _ in objective.named_parameters() if name.startswith("model.language")}
    assert language and fixed == language | {"grounding.bias"}


def test_a_grounding_loss_that_is_not_finite_is_named(run_root, monkeypatch):
    forward = MaskGrounding.forward
    monkeypatch.setattr(MaskGrounding, "forward", lambda *a: (forward(*a)[0] * torch.inf, forward(*a)[1]))
    with pytest.raises(FloatingPointError, match=r"grounding = inf"):
        magnet.fit(with_parts(), progress=False)


def test_a_loss_that_is_not_finite_stops_with_its_batch(run_root, monkeypatch):
    calls = iter(range(100))
    monkeypatch.setitem(
        losses.TERMS, "cross_entropy",
        lambda outputs, batch: outputs["class_logits"].float().mean() * (torch.nan if next(calls) == 3 else 1.0),
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"step 4: cross_entropy = nan.*bad_batch_step4"):
        magnet.fit(tiny_config(), progress=False)
    saved = load_file(next(run_root.rglob("bad_batch_step4.safetensors")))
    assert saved["images"].shape == (8, 3, 32, 32) and saved["sent_ids"].tolist() == list(range(24, 32))


def test_nan_in_the_weights_is_named(run_root):
    run = magnet.fit(tiny_config(), progress=False)
    tensors = load_file(run.weights)
    tensors["fusions.1.key.weight"][0, 0] = torch.nan
    save_file(tensors, run.weights)
    with pytest.raises(ValueError, match=r"^init does not .*: 1, first fusions.1.key.weight is not finite"):
        magnet.fit(tiny_config(num_steps=3), init=run, progress=False)


class Backless(torch.autograd.Function):
    """Goes forward, not back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no C++ compiler\nand much more")


def compiled_badly(place: str):
    """What stands in for torch.compile where it fails at once, or in a pass of the second micro-batch."""
    calls = iter(range(100))

    def fail(objective):
        raise RuntimeError("no C++ compiler\nand much more")

    def forward(objective, batch):
        if next(calls) == 0:
            return objective(batch)
        if place == "forward pass":
            fail(objective)
        terms, statistics = objective(batch)
        return {**terms, "dice": Backless.apply(terms["dice"])}, statistics

    return fail if place == "at once" else lambda objective: lambda batch: forward(objective, batch)


@pytest.mark.parametrize("place", ["at once", "forward pass", "backward pass"])
def test_a_step_that_does_not_compile_is_taken_without(run_root, monkeypatch, caplog, place):
    """With dropout, which must be drawn alike, and a first micro-batch whose gradient must not count twice."""
    settings = {"micro_batch": 4, "num_steps": 3, "val_every": 3}
    plain = magnet.fit(dataclasses.replace(with_parts(**settings), recipe="plain"), progress=False)
    monkeypatch.setattr(torch, "compile", compiled_badly(place))
    run = magnet.fit(with_parts(compile=True, **settings), progress=False)
    assert same_weights(run.folder, plain.folder)
    said = [record.getMessage() for record in caplog.records if "torch.compile" in record.getMessage()]
    assert said == ["torch.compile failed, training goes on without it: no C++ compiler"]


def test_an_error_that_is_not_the_compilers_is_not_hidden(run_root, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda objective: objective)
    monkeypatch.setattr(Objective, "forward", lambda self, batch: (_ for _ in ()).throw(RuntimeError("sizes differ")))
    with pytest.raises(RuntimeError, match="sizes differ"):
        magnet.fit(tiny_config(compile=True), progress=False)


TOO_LITTLE_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("std::bad_alloc"),
    MemoryError("Unable to allocate 8.00 GiB for an array"),
]


@pytest.mark.parametrize("error", TOO_LITTLE_MEMORY, ids=str)
def test_too_little_memory_names_sizes_and_remedies(run_root, monkeypatch, error):
    monkeypatch.setattr(Objective, "forward", lambda self, batch: (_ for _ in ()).throw(error))
    message = r"8 pictures of 32 px and 8 sentences.*micro-batch 4.*image-size.*gradient-checkpointing"
    with pytest.raises(MemoryError, match=message):
        magnet.fit(tiny_config(), progress=False)


def test_remedies_are_no_settings_that_are_on(run_root, monkeypatch):
    config = tiny_config(batch_size=1)
    config = replace(config, model=replace(config.model, gradient_checkpointing=True))
    monkeypatch.setattr(Objective, "forward", lambda self, batch: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError, match=r"try a smaller network, a smaller --data.image-size, or a smaller backbone"):
        magnet.fit(config, progress=False)


@pytest.mark.parametrize("place", ["backward pass", "update"])
def test_too_little_memory_is_said_wherever_a_step_meets_it(run_root, monkeypatch, place):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(
        *{"backward pass": (torch.Tensor, "backward"), "update": (torch.optim.AdamW, "step")}[place], fail
    )
    with pytest.raises(MemoryError, match=r"8 pictures of 32 px.*micro-batch 4"):
        magnet.fit(tiny_config(), progress=False)


@pytest.mark.parametrize(
    "optim, message",
    [
        ({"micro_batch": -1}, r"optim\.micro_batch=-1: at least 1"),
        ({"num_processes": 0}, r"optim\.num_processes=0: at least 1"),
        ({"val_every": 0}, r"optim\.val_every=0: at least 1"),
        ({"warmup_steps": -5}, r"optim\.warmup_steps=-5, optim\.lr=.*below 0"),
        ({"rates": {"^vision": float("nan")}}, "is no share of 0 or more"),
        ({"batch_size": 8, "num_processes": 3}, "batch_size 8 does not divide into 3 processes"),
        ({"batch_size": 8, "num_processes": 16}, "batch_size 8 does not divide into 16 processes"),
        ({"precision": "float16"}, r"optim\.precision='float16': one of 'auto', 'float32', 'bfloat16' is needed"),
        ({"schedule": "linear"}, r"optim\.schedule='linear': one of 'polynomial', 'cosine' is needed"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_before_anything_takes_long(run_root, monkeypatch, optim, message):
    monkeypatch.setattr(train.Trainer, "_start_from", lambda *_: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        magnet.fit(tiny_config(**optim), progress=False)


def test_what_changes_no_number_can_be_changed_when_a_run_goes_on(run_root):
    config = tiny_config()
    first = runs.open_run(config)
    changed = dataclasses.replace(config, log_every=7, optim=dataclasses.replace(config.optim, micro_batch=2))
    assert runs.open_run(changed).folder == first.folder
    found = runs.read_run(first.folder).config  # what the processes of a training read
    assert found.log_every == 7 and found.optim.micro_batch == 2


def test_tensorboard_shows_what_the_log_holds(run_root):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = magnet.fit(dataclasses.replace(tiny_config(num_steps=3, val_every=3), tensorboard=True), progress=False)
    shown = events.EventAccumulator(str(run.folder / "tensorboard")).Reload()
    for name in ("loss", "lr"):
        logged = [line[name] for line in run.log() if name in line]
        assert [event.value for event in shown.Scalars(name)] == pytest.approx(logged) and len(logged) == 3
    (validation,) = (line["validation"] for line in run.log() if "validation" in line)
    assert [event.value for event in shown.Scalars("mIoU")] == pytest.approx([validation["mIoU"]])


def test_a_full_disk_keeps_the_last_checkpoint(run_root, monkeypatch):
    saves = []

    def save(tensors, path, metadata=None):
        saves.append(path)
        if metadata and len(saves) > 3:
            Path(path).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(tensors, path, metadata=metadata)

    real = train.save_file
    monkeypatch.setattr(train, "save_file", save)
    with pytest.raises(OSError, match=r"last.safetensors: No space left"):
        magnet.fit(tiny_config(), progress=False)
    monkeypatch.setattr(train, "save_file", real)
    resumed = magnet.fit(tiny_config(), progress=False)
    assert resumed.is_finished


def test_a_finished_run_without_its_weights_gets_them_again(run_root):
    run = magnet.fit(tiny_config(num_steps=3, val_every=3), progress=False)
    before = load_file(run.weights)
    run.weights.unlink()
    after = load_file(magnet.fit(tiny_config(num_steps=3, val_every=3), progress=False).weights)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_starts_that_cannot_be_validated_or_makes_no_sense(run_root, tmp_path):
    config = tiny_config()
    for data in ({"root": str(tmp_path)}, {"val_split": "valid"}):
        with pytest.raises((ValueError, FileNotFoundError), match=r"does not exist|valid"):
            magnet.fit(dataclasses.replace(config, data=dataclasses.replace(config.data, **data)), progress=False)
    for setting, value in {"batch_size": 0, "num_steps": 0, "frozen": ("nosuch",)}.items():
        with pytest.raises(ValueError, match=f"optim.{setting}="):
            magnet.fit(tiny_config(**{setting: value}), progress=False)


def test_the_log_is_whole_up_to_every_checkpoint(run_root, monkeypatch):
    config = dataclasses.replace(tiny_config(), log_every=10, checkpoint_every=5)
    monkeypatch.setattr(train.Trainer, "_validate", lambda self: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        magnet.fit(config, progress=False)
    assert [line["step"] for line in runs.find("lavt_tiny").log()] == [1, 2, 3, 4, 5]
