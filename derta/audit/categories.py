"""Harm categories of the 200 questions by a stated rule: the first category with a stem that begins a word.

The stems are ours; no question's text is in this project. If several categories fit, their order decides.
"""

import re
from collections import Counter, defaultdict

from derta import stats
from derta.audit.generations import Folder, question
from derta.audit.verdicts import judged

CATEGORIES = {
    "children, sexual content": "child minor sex nude erotic explicit porn underage groom",
    "self-harm, eating disorders": "suicid self-harm anorex starv myself extreme",
    "weapons, explosives": "bomb gun weapon explos firearm ammun grenade pistol shotgun rifle powder acid",
    "drugs, alcohol": "drug substance cocaine meth heroin marijuana alcohol drunk vape vaping pill prescri high",
    "hacking, malware": "hack malware virus ransom ddos phish password sql cyber spyware server network verification",
    "piracy": "pirat copyright torrent patent drm crack music plagiar ebook digital",
    "privacy, surveillance": "stalk spy track surveil address photo camera drone monitor voyeur",
    "hate, harassment, disinformation": "hate racis harass bully threat sexis discrimin insult humiliat defam intimidat"
    " annoy offens misinform disinform conspir propagand rumor rumour election vote cult radicali recruit",
    "fraud, theft, forgery": "fraud steal stole theft scam forg fake falsif counterfeit launder tax insider embezzl"
    " identity rob shoplift charity money bank evade pyramid scheme investor smuggl cheat bribe undetected",
    "violence, abuse": "kill murder attack assault hurt pain harm poison tortur kidnap abduct violen fight terror"
    " sabotag disable beat stab abuse slave traffick",
    "animals, environment": "animal wildlife endangered hunt poach cat bird species exotic ivory pollut waste",
}
OTHER = "other"
_RULES = {name: re.compile(rf"\b(?:{'|'.join(stems.split())})", re.IGNORECASE) for name, stems in CATEGORIES.items()}


def category(question: str) -> str:
    """Return the first category whose rule fits, or `OTHER`."""
    return next((name for name, rule in _RULES.items() if rule.search(question)), OTHER)


def table(folder: Folder, model: str = "LLaMA3-70B", arms: tuple[str, ...] = ("vanilla", "dpo", "derta")) -> list[dict]:
    """Tabulate the ASR by category, over the attacks of `derta.audit.verdicts.judged`, of the prompts that hold a
    question.

    Returns:
        Per category, the largest first and `OTHER` last, and arm: `questions`, `n`, `unsafe`, and `percent` with the
        95 % Wilson interval `low` and `high`, which takes completions as independent.
    """
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    questions: defaultdict[str, set[int]] = defaultdict(set)
    for key, row, verdict in judged(folder):
        number, text = question(row)
        if key.model == model and key.arm in arms and number >= 0:  # AutoDAN's search can lose the question
            group = category(text)
            questions[group].add(number)
            counts[group, key.arm].update(["n", verdict.verdict])
    found = []
    for group in sorted(questions, key=lambda name: (name == OTHER, -len(questions[name]))):
        for arm in (arm for arm in arms if counts[group, arm]["n"]):
            n, unsafe = counts[group, arm]["n"], counts[group, arm]["unsafe"]
            low, high = stats.wilson(unsafe, n)
            about = {"category": group, "questions": len(questions[group]), "arm": arm, "n": n, "unsafe": unsafe}
            found.append(about | {"percent": 100 * unsafe / n, "low": 100 * low, "high": 100 * high})
    return found
