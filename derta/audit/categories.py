"""Harm categories of the 200 questions by a stated rule: the first category with a stem that begins a word.

The stems are ours; no question's text is in this project. If several categories fit, their order decides.
"""

import re

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
