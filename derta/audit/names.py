"""The names of the authors' released files, parsed into model, arm and attack or task."""

import re
from dataclasses import dataclass

ATTACKS = {
    "codeattack": "CodeAttack",
    "pair_result": "PAIR",
    "jailbreakchat": "JailbreakChat",
    "selfcipher": "SelfCipher",
    "completionattack": "CompletingAttack",
    "autodan": "AutoDAN",
}
HELPFULNESS = {"gsm8k": "GSM8K", "mmlu": "MMLU", "alpaca_eval": "AlpacaEval"}
ARMS = {"vanill": "vanilla", "ours": "derta"}

_TASK = re.compile(rf"(?:^|[_-])({'|'.join(ATTACKS | HELPFULNESS)})(?=_|$)", re.IGNORECASE)
# A size like 70B or 8x7B ends the model's name, except for these suffixes; the rest is the arm.
_MODEL = re.compile(
    r"(?P<name>.*?\d+(?:x\d+)?b)(?:-(?:hf|base|v0\.1))*(?P<instruct>-(?:instruct|ins|chat|it)(?![a-z])(?:-v[\d.]+)?)?"
    r"(?:[-_](?P<arm>.+))?$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """A parsed file name: model and task as the paper names them; `arm` is ``none`` for a model as released."""

    model: str
    arm: str
    task: str


def source(name: str) -> Source | None:
    """Parse the name of a file; None if it names no task or no model.

    The name contains the attack or task. The model comes before it (``lora_<model>_<arm>_eval_<task>_200.json``), or
    else after it and the number of rows (``eval_<task>_200_<model>.json``, ``PAIR_result_<model>-<arm>.json``). An arm
    follows the model's size. The authors' different spellings of the same thing become one; any other name stays
    unchanged.
    """
    stem = name.removesuffix(".json")
    task = _TASK.search(stem)
    if not task:
        return None
    subject = re.sub(
        r"^(?:lora|full)_|(?:^|_)eval(?:uation)?$|^(?:safety|helpfulness)$",
        "",
        stem[: task.start()],
        flags=re.IGNORECASE,
    )
    if not subject:
        # AutoDAN names the model whose prompts were searched, the number of rows, and the model that answered.
        subject = re.split(r"_\d+(?:_|$)", stem[task.end() :])[-1].strip("_")
    if not subject or subject.isdigit():
        return None
    model, arm = _model_and_arm(re.sub(r"^gpt-(?!\d)", "", subject))
    return Source(model, arm, (ATTACKS | HELPFULNESS)[task[1].lower()])


def _model_and_arm(subject: str) -> tuple[str, str]:
    if gpt := re.fullmatch(r"gpt-(\d.*?)(?:-2024-(\d\d)-(\d\d))?", subject, re.IGNORECASE):
        return f"GPT-{gpt[1]}" + (f"-{gpt[2]}{gpt[3]}" if gpt[2] else ""), "none"
    named = _MODEL.match(subject)
    if not named:
        model, _, arm = subject.partition("_")
        return model, ARMS.get(arm.lower(), arm) or "none"
    name, arm = named["name"], named["arm"] or "none"
    if llama := re.fullmatch(r"(?:meta-)?llama-?3-(\d+b)", name, re.IGNORECASE):
        name = f"LLaMA3-{llama[1].upper()}"
    elif mistral := re.fullmatch(r"mi[sx]tral-(\d+)(x\d+)?b", name, re.IGNORECASE):
        name = f"Mistral-{mistral[1]}{(mistral[2] or '').lower()}B"
    instruct = named["instruct"] or ""
    return name + ("-Instruct" if instruct.lower() in ("-ins", "-instruct") else instruct), ARMS.get(arm.lower(), arm)
