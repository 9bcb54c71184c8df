"""A dry run: what can be checked before a profile is run, and the commands that the run consists of.

Nothing is trained or written; the only download may be that of a configuration (see `derta.commands.plan`).
"""

import os
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_token

from derta import hub
from derta.commands import launch, serving
from derta.commands.plan import Size, size
from derta.commands.profiles import read_profile
from derta.evaluate import label
from derta.published import prompts, released
from derta.runs import run_dir

# Owners whose models ask for a login on the hub.
GATED = ("meta-llama/", "mistralai/")


def rehearse(profile: str) -> str:
    """Check a profile, and return what was found and the commands of its run.

    Raises:
        FileNotFoundError, ValueError: see `derta.commands.profiles.read_profile` and `derta.published.released.fetch`;
            or the batch cannot be shared by the processes, or DeepSpeed is not installed.
    """
    values, folder = read_profile(profile), run_dir(profile)
    of, spec = size(values), hub.spec(values["model"])
    models = len(values["arms"]) * len(values["seeds"])
    processes = launch.setup(values["accelerate"])["num_processes"] if values["accelerate"] else 1
    said = [
        f"{profile}: valid; {models} models of {of.parameters / 1e9:.2f} billion parameters, {of.trainable / 1e9:.2f} "
        "trained; `derta plan` has their memory and hours",
        *files(values),
    ]
    needs = space(values, of, models, processes, folder)
    home = "" if spec and spec.wheel else hub.on_hub(values["model"])[0]
    if home.startswith(GATED) and not get_token():
        line = f"{home} asks for one, and there is none here: accept its terms, then `hf auth login`"
        needs.append(("login", line, False))
    commands = [f"./run_all.sh {profile}"]
    if values["server"]:
        try:
            serving.check(values["server"])
        except FileNotFoundError as error:
            needs.append(("server", str(error), False))
        commands.append(f"by notebook 4, for each model: {values['server']} (the model and where it listens are added)")
    if values["accelerate"]:
        rows = values["sft"].get("per_device_train_batch_size", 8)
        if values["batch_size"] % (processes * rows):
            raise ValueError(
                f"batch_size {values['batch_size']} is no multiple of per_device_train_batch_size {rows} × {processes} "
                f"processes ({launch.FILES}/{values['accelerate']}.yaml)"
            )
        if values["accelerate"] == "deepspeed_zero3" and not find_spec("deepspeed"):
            raise ValueError("accelerate is deepspeed_zero3, and DeepSpeed is missing: pip install deepspeed")
        found = torch.cuda.device_count()
        line = f"{processes} processes are started, one a GPU; this machine has {found}"
        needs.append(("GPUs", line, found >= processes))
        names = [label(arm, seed) for seed in values["seeds"] for arm in values["arms"]]
        commands += [
            "by notebook 3: " + shlex.join(launch.command(values["accelerate"], folder / "training" / f"{name}.yaml"))
            for name in names
        ]
    said += [f"{what}: {line}" for what, line, _ in needs]
    if missing := [what for what, _, enough in needs if not enough]:
        said.append(f"missing here: {', '.join(missing)}")
    return "\n".join([*said, "commands:", *(f"  {command}" for command in commands)])


def space(values: dict[str, Any], of: Size, models: int, processes: int, folder: Path) -> list[tuple[str, str, bool]]:
    """Return what a profile takes of the disk and of the host's memory: each a name, a line, and whether there is
    enough."""
    lora, fsdp2 = values["peft"].get("use_peft"), values["accelerate"] == "fsdp2"
    kept = models * (4 * of.trainable if lora else (4 if fsdp2 else 2) * of.parameters)
    # Of each trained weight two checkpoints, one of them being written, each with the weight and AdamW's two moments;
    # FSDP2's have the weight twice.
    saved, base = 2 * (16 if fsdp2 else 12) * of.trainable, 2 * of.parameters
    # Each process reads float32 weights of its own; those of an adapter's base are mapped once, and put together for
    # each checkpoint.
    loaded = 2 * base if lora else 4 * processes * of.parameters
    room, machine = free(folder), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = f"about {kept / 1e9:,.1f} GB for the models, {saved / 1e9:,.1f} GB for the checkpoints of one in training, "
    disk += f"{base / 1e9:,.1f} GB for the base; {room / 1e9:,.0f} GB are free"
    memory = f"about {loaded / 1e9:,.0f} GB to load and save the model; this machine has {machine / 1e9:,.0f} GB"
    return [("disk", disk, kept + saved + base <= room), ("host memory", memory, loaded <= machine)]


def free(folder: Path) -> int:
    """Return the free bytes where `folder` is or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


def files(values: dict) -> list[str]:
    """Return a line about the authors' files that a profile needs, each checked if there is a local copy."""
    needed = []
    if values["data"] == "released":
        needed += [released.SAFETY, *released.HELPFULNESS]
    if "paper" in values["published"]:
        needed += [prompts.QUESTIONS, *prompts.PROMPTS.values()]
    if "alpaca_eval" in values["published"]:
        needed.append(prompts.INSTRUCTIONS)
    needed += [f"data/test/helpfulness_{name}_500.json" for name in ("gsm8k", "mmlu") if name in values["questions"]]
    if not needed:
        return []
    if not os.environ.get("DERTA_RELEASED"):
        return [f"the authors' files: {len(needed)}, from their public home or the cache, checked by hash"]
    for path in needed:
        released.fetch(path)
    return [f"the authors' files: {len(needed)}, found and checked"]
