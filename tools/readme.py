"""Fill the numbers of the README, of ``docs/results.md`` and of ``docs/scale.md``: ``python -m tools.readme``.

What stands between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` is made from the tables in ``figures/`` and their
provenance, of the profile `study`, and of `further` what that lacks.
`tests/test_readme.py` checks that it is up to date.
"""

import json
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from derta import paper
from derta.attacks import ATTACKS
from derta.claims import VERDICTS
from derta.commands.plan import plan
from derta.cost_plots import TITLES
from derta.figures import ARM_LABELS, ATTACK_LABELS, MEASURE_LABELS, interval, intervals, named
from derta.runs import DATA, PACKAGE

SPLIT = "test"
OF_THE_PAPER = ("llama3-8b", "mistral-7b", "llama3-70b", "mixtral-8x7b", "llama3-8b-instruct", "llama3-70b-instruct")
PLACES = ("direct", "prefill", "completing")
FORBIDDEN = ("forbid_refusal", "forbid_synonyms")
# The arms of `further`, each after the one that it departs from.
DEPARTURES = (("vanilla", "vanilla_half"), ("derta", "derta_words"), ("derta", "derta_close"))


def cell(mean: float, low: float, high: float, measure: str, signed: bool = False) -> str:
    """Return an estimate with its interval: in percent, AUROC as it is."""
    scale, digits = (1, 2) if measure == "auroc" else (100, 0)
    return interval(mean, low, high, scale, digits, signed)


def percent(mean: float) -> str:
    """Return a fraction in percent."""
    return "–" if pd.isna(mean) else f"{100 * mean:.0f}"


def unsafe(row: pd.Series) -> str:
    """Return the ASR in percent, and in brackets what it would be if every unscored answer were unsafe."""
    least, most = percent(row.asr), percent(row.asr_at_most)
    return least if least == most else f"{least} ({most})"


def markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def titled(title: str, table: list[str]) -> list[str]:
    """Return a table below its title."""
    return ["", f"**{title}**", "", *table]


def by_attack(table: pd.DataFrame) -> list[str]:
    """Return what is refused and what is unsafe by attack, for vanilla and DeRTa, in percent; what the test lacks is of
    the validation."""
    rows = []
    for attack, defined in ATTACKS.items():
        of = table[table.attack == attack]
        split = SPLIT if SPLIT in set(of.split) else "validation"
        of = of[of.split == split].set_index("arm")
        if defined.depths or not {"base", "vanilla", "derta"} <= set(of.index):
            continue
        note = (" †" if of.asr["base"] < 0.2 else "") + (" ‡" if split != SPLIT else "")
        row = [ATTACK_LABELS[attack] + note, str(of.n["derta"]), unsafe(of.loc["base"])]
        for arm in ("vanilla", "derta"):
            twin = "" if defined.innocent else f" / {percent(of.benign[arm])}"
            row += [percent(of.harmful[arm]) + twin, unsafe(of.loc[arm])]
        rows.append(row)
    head = ["", "n", "before: unsafe", "vanilla: refused / twin", "unsafe", "DeRTa: refused / twin", "unsafe"]
    return markdown(head, rows)


def by_arm(table: pd.DataFrame) -> list[str]:
    """Return by arm, in three places, how well harm is told from its twin."""
    rows = []
    for arm, label in ARM_LABELS.items():
        for attack in PLACES:
            found = table[(table.arm == arm) & (table.attack == attack)]
            if len(found):
                (row,) = found.to_dict("records")
                cells = [
                    cell(row[m], row[f"{m}_low"], row[f"{m}_high"], m) for m in ("auroc", "ordered", "selectivity")
                ]
                rows.append([label, ATTACK_LABELS[attack], *cells])
                label = ""
    return markdown(["", "", "AUROC", "pairs in order, %", "refused − twin refused, points"], rows)


def less(table: pd.DataFrame, pair: tuple[str, str], split: str, attack: str) -> dict[str, str]:
    """Return how the second arm of a pair differs from the first, by measure; – where that is unknown."""
    asked = dict(zip(("first", "second", "split", "attack"), (*pair, split, attack), strict=True))
    chosen = table[np.logical_and.reduce([table[name] == value for name, value in asked.items()])]
    of = {row.measure: cell(row.difference, row.low, row.high, row.measure, signed=True) for row in chosen.itertuples()}
    return dict.fromkeys(MEASURE_LABELS, "–") | of


def differences(table: pd.DataFrame) -> list[str]:
    """Return DeRTa less vanilla, by split."""
    asked = product(PLACES, ("validation", SPLIT))
    rows = [
        [split, ATTACK_LABELS[attack], *less(table, ("vanilla", "derta"), split, attack).values()]
        for attack, split in asked
    ]
    return markdown(["split", "", *MEASURE_LABELS.values()], rows)


def departures(table: pd.DataFrame) -> list[str]:
    """Return each arm of `further` less the one that it departs from."""
    rows = []
    for pair, attack in product(DEPARTURES, (*PLACES, *FORBIDDEN)):
        label = f"{ARM_LABELS[pair[1]]} less {ARM_LABELS[pair[0]]}"
        rows.append([label, ATTACK_LABELS[attack], *less(table, pair, SPLIT, attack).values()])
    return markdown(["", "", *MEASURE_LABELS.values()], rows)


def at_one_threshold(table: pd.DataFrame) -> list[str]:
    """Return what each arm refuses at one threshold of P(refusal), beside what greedy decoding refuses."""
    rows = []
    for row in table[table.arm.isin(["vanilla", "derta", "words"])].to_dict("records"):
        cells = [ARM_LABELS[row["arm"]], ATTACK_LABELS[row["attack"]]]
        for kind in ("greedy", "at_threshold"):
            cells.append(f"{percent(row[f'{kind}_harmful'])} / {percent(row[f'{kind}_benign'])}")
            cells.append(cell(row[kind], row[f"{kind}_low"], row[f"{kind}_high"], "selectivity"))
        rows.append(cells)
    head = ["", "", "greedy: refused / twin", "selectivity", "at one threshold: refused / twin", "selectivity"]
    return markdown(head, rows)


def held(table: pd.DataFrame, compared: pd.DataFrame) -> str:
    """Return what vanilla and DeRTa refuse after a started reply, here and in the paper's mixture of data."""
    at = table[table.split == SPLIT].set_index(["attack", "arm"])
    refused, unsafe = at.harmful["prefill"], at.asr["prefill"]
    difference = less(compared, ("vanilla", "derta"), SPLIT, "prefill")["asr"]
    return (
        "**Refusal anywhere.** Given the first words of a compliant reply (*a started reply*, our own test), ordinary "
        f"safety tuning (*vanilla*) refuses {percent(refused['vanilla'])} % of unseen harmful requests and **DeRTa "
        f"{percent(refused['derta'])} %**; {percent(unsafe['vanilla'])} → {percent(unsafe['derta'])} % of the replies "
        f"comply (attack success rate, ASR: {difference} points; {at.n['prefill', 'derta']} requests, "
        f"{at.seeds['prefill', 'derta']} seeds). Under CompletingAttack DeRTa refuses "
        f"{percent(at.harmful['completing', 'derta'])} % (ASR {percent(at.asr['completing', 'vanilla'])} → "
        f"{percent(at.asr['completing', 'derta'])} %); on the paper's mixture of data (more instructions), after a "
        f"started reply {percent(refused['derta_paper'])} % ({percent(unsafe['vanilla_paper'])} → "
        f"{percent(unsafe['derta_paper'])} %)."
    )


def refused_too(table: pd.DataFrame) -> str:
    """Return what vanilla and DeRTa refuse that is innocent, and how well P(refusal) tells harm from its twin."""
    at = table.set_index(["split", "attack", "arm"]).sort_index()
    started, innocent = at.loc[SPLIT, "prefill"], at.loc["validation"]
    auroc = dict(zip(started.index, intervals(started, "auroc", scale=1, digits=2), strict=True))
    asked, then = (at.benign[SPLIT, attack].map(percent) for attack in ("direct", "prefill"))

    def both(refused: pd.Series) -> tuple[str, str]:
        shown = refused.map(percent)
        return f"{shown['vanilla']} and {shown['derta']} %", f"{shown['vanilla_paper']} and {shown['derta_paper']}"

    instructions, there = both(innocent.harmful["helpful"])
    borderline, also_there = both(innocent.benign["borderline"])
    return (
        f"**Over-refusal.** Of near-identical innocent requests, *twins*, vanilla refuses {asked['vanilla']} % asked "
        f"directly and {then['vanilla']} % after a started reply; DeRTa {asked['derta']} and **{then['derta']} %** "
        f"({then['derta_paper']} in the paper's mixture). Of ordinary instructions vanilla and DeRTa refuse "
        f"{instructions} (there {there}), of borderline questions {borderline} ({also_there}). After a started reply "
        "P(refusal), the refusal token's probability, separates harm from twins with an AUROC of "
        f"{auroc['derta']} (vanilla {auroc['vanilla']}, word counts {auroc['words']})."
    )


def price(costs: pd.DataFrame, accuracy: pd.Series, lasted: pd.DataFrame) -> str:
    """Return what tuning costs, and whether it lasts."""
    kind = costs[(costs.measure == "accuracy") & (costs.of == "exact_match")].set_index(["first", "second"])
    more = kind.loc["vanilla", "derta"]
    before, vanilla, derta = (accuracy[name].partition(" ")[0] for name in ("before tuning", "vanilla", "DeRTa"))
    asked = lasted[(lasted["first"].str.partition("@")[0] == "derta") & (lasted.attack == "prefill")]
    row = asked[asked.measure == "harmful"].sort_values("steps").iloc[0]
    gone = interval(row.difference, row.low, row.high, signed=True)
    return (
        f"**Further costs.** Of {more.n} easy questions, {before} % are answered right before tuning, {vanilla} % by "
        f"vanilla, {derta} % by DeRTa ({interval(more.difference, more.low, more.high, signed=True)} points). "
        f"{row.steps} further steps on innocent instructions undo DeRTa's refusals after a started reply ({gone} "
        f"points; {row.n} validation requests, one seed)."
    )


def summary(judged: pd.DataFrame) -> list[str]:
    """Return how many claims have which verdict, of the paper and added to it, with links to those that were tested."""
    short = pd.read_csv(DATA / "claims.csv").set_index("id").short
    of_paper = judged.source.str.match("Abstract|Section|Table|Figure|released")
    rows = []
    for verdict in VERDICTS:
        sides = [judged[(judged.verdict == verdict) & side] for side in (of_paper, ~of_paper)]
        links = [", ".join(f"[{short[name]}](docs/results.md#{name})" for name in side.id) for side in sides]
        cells = [f"{len(side)}: {linked}" if linked else "0" for side, linked in zip(sides, links, strict=True)]
        if verdict == VERDICTS[-1]:
            attacks = sides[0][sides[0].id.str.startswith("asr-")]
            asked = ~attacks.numbers.str.endswith("no result")
            rarely, never = (
                ", ".join(short[of.id].str.removeprefix("ASR: ")) for of in (attacks[asked], attacks[~asked])
            )
            said = f"{rarely} (the untuned model hardly complies), {never} (not run), and"
            more = "[more](docs/results.md#the-verdict-on-every-claim)"
            cells = [f"{len(sides[0])}: {said} {more}", str(len(sides[1]))]
        rows.append([verdict, *cells])
    return markdown(["verdict", "claims of the paper", "added here"], rows)


def completed(judged: pd.DataFrame, elsewhere: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts; in the place of those that lack a result, what the profile `further` says of the claim."""
    theirs = elsewhere[elsewhere.verdict != VERDICTS[-1]].set_index("id")
    theirs = theirs.assign(numbers="profile further: " + theirs.numbers)
    lacking = judged.numbers.str.startswith("no result") & judged.id.isin(theirs.index)
    return judged.mask(lacking, theirs.reindex(judged.id).reset_index())


def verdicts(judged: pd.DataFrame) -> list[str]:
    """Return the verdict on every claim, with its numbers."""
    rows = [
        [f'<a id="{row.id}"></a>{row.id}', row.source, row.claim, row.verdict, f"`{row.numbers}`"]
        for row in judged.itertuples()
    ]
    return markdown(["", "made in", "claim", "verdict", "numbers"], rows)


def costs(table: pd.DataFrame) -> list[str]:
    """Return what tuning costs: differences in accuracy (points) and in likelihood (nats per token)."""
    rows = []
    for (first, second), group in table[table.measure != "kl"].groupby(["first", "second"], sort=False):
        label = f"{ARM_LABELS[second]} less {ARM_LABELS[first]}"
        for row in group.to_dict("records"):
            scale, digits = (100, 1) if row["measure"] == "accuracy" else (1, 2)
            found = interval(row["difference"], row["low"], row["high"], scale, digits, signed=True)
            unit = "accuracy, points" if row["measure"] == "accuracy" else "nats per token"
            rows.append([label, TITLES.get(row["of"], row["of"]), unit, str(row["n"]), found])
            label = ""
    return markdown(["", "of", "", "n", "difference"], rows)


def labels(table: pd.DataFrame) -> str:
    """Return how far the rows of training reach, and which share of the labels RTO has."""
    (row,) = table.to_dict("records")
    return (
        f"- Training rows end at {row['max_length']} tokens (the paper's at 1,024): the harmful prefix has a median of "
        f"{row['prefix_median']} tokens, and RTO reaches position {row['rto_reach']} of a response. Of the labels, RTO "
        f"holds {percent(row['rto_share'])} % here and would hold about {100 * row['paper_full_share']:.1f} % in the "
        f"paper's full fine-tuning ({100 * row['paper_lora_share']:.1f} % with LoRA), where helpful rows are ten times "
        "as many as safety rows."
    )


def terms(tested: pd.DataFrame, places: Sequence[str] = PLACES) -> list[str]:
    """Return what each arm refuses, of harmful requests and of their twins, and where it is unsafe, in percent."""
    at = tested[tested.attack.isin(places)].set_index(["arm", "attack"])
    rows = []
    for arm in [arm for arm in ARM_LABELS if arm in at.index and not pd.isna(at.asr[arm, places[0]])]:
        cells = [at.loc[arm, place] for place in places]
        shown = [f"{percent(of.harmful)} / {percent(of.benign)}, {unsafe(of)}" for of in cells]
        rows.append([ARM_LABELS[arm], str(int(cells[0].seeds)), *shown])
    return markdown(["refused / twin, unsafe", "seeds", *(ATTACK_LABELS[place] for place in places)], rows)


def lasting(table: pd.DataFrame) -> list[str]:
    """Return how refusals change while a tuned model is tuned further on innocent instructions, in points."""
    own = table.assign(arm=[name.partition("@")[0] for name in table["first"]])
    steps = sorted(set(own.steps))
    rows = []
    for (arm, attack, measure), group in own.groupby(["arm", "attack", "measure"], sort=False):
        at = group.set_index("steps")
        shown = [
            cell(at.difference[step], at.low[step], at.high[step], measure, signed=True)
            for step in (steps[0], steps[-1])
        ]
        rows.append([ARM_LABELS[arm], ATTACK_LABELS[attack], MEASURE_LABELS[measure], str(at.n.iloc[0]), *shown])
    return markdown(["", "", "", "n", f"after {steps[0]} steps", f"after {steps[-1]}"], rows)


def varied(table: pd.DataFrame) -> list[str]:
    """Return what `tools.vary` found, by setting."""
    titles = {"triples": "triples", "twins": "innocent twins", "rto_dropout": "share of RTO's labels dropped"}
    labels = table.varied.map(titles).mask(table.varied == table.varied.shift(), "")
    direct, started, nats = (
        intervals(table, name, scale=1, digits=2) for name in ("auroc_direct", "auroc_prefill", "nll")
    )
    both = zip(table.prefill_harmful.map(percent), table.prefill_benign.map(percent), strict=True)
    columns = labels, table.value.map("{:g}".format), direct, started, map(" / ".join, both), nats
    rows = [list(row) for row in zip(*columns, strict=True)]
    head = ["", "", "AUROC, direct", "AUROC, started reply", "P(refusal) then: harmful / twin, %", "nats per token"]
    return markdown(head, rows)


@cache
def costs_of_the_paper() -> list[str]:
    """Return what the paper's profiles take on H100 cards, by `derta.commands.plan`."""
    rows = []
    for profile in OF_THE_PAPER:
        said, table = plan(profile)
        cards = {row["gpus"]: row for row in table if row["card"] == "H100"}
        fits = min(gpus for gpus, row in cards.items() if row["training"] == "yes")
        answers = min(gpus for gpus, row in cards.items() if row["answering"] == "yes")
        eight, billions = cards[8], said.partition(": ")[2].partition(" billion")[0]
        row = [f"`{profile}`", billions, str(fits), f"{eight['training_gib']:.0f}", f"{eight['training_hours']:.1f}"]
        rows.append([*row, str(answers), f"{cards[answers]['answering_hours']:.1f}"])
    head = "profile|10⁹ parameters|cards for training, at least|GiB on each of eight|hours on eight"
    return markdown([*head.split("|"), "cards for answers, at least", "hours"], rows)


def asr_of_the_paper() -> list[str]:
    """Return the paper's mean ASR with and without DeRTa by model, in percent (Tables 2 and 10)."""
    cells = pd.DataFrame(paper.reported()).query("metric == 'asr' and source in ['Table 2', 'Table 10']")
    rows = []
    for model, own in cells[cells.arm != "dpo"].groupby("model"):
        with_derta, without = own[own.arm == "derta"].value_percent, own[own.arm != "derta"].value_percent
        if len(with_derta):
            rows.append([str(model), str(len(without)), f"{without.mean():.1f}", f"{with_derta.mean():.1f}"])
    return markdown(["model", "attacks", "vanilla, or the Instruct model itself", "with DeRTa"], rows)


def blocks(figures: Path) -> dict[str, str]:
    """Return what stands between the marks, by name.

    Raises:
        FileNotFoundError: the profile `study` or `further` has not been run.
    """

    def read(name: str, profile: str = "study") -> pd.DataFrame:
        return pd.read_csv(figures / profile / f"{name}.csv")

    table, compared, helpful, lasted = map(read, ("measures", "differences", "helpfulness", "lasting"))
    tested = table[table.split == SPLIT]
    made = json.loads((figures / "study" / "measures.json").read_text(encoding="utf-8"))
    seeds = sorted({int(model.rsplit("-s", 1)[1]) for model in made["models"]})
    judged = completed(read("claims"), read("claims", "further"))
    others = read("measures", "further")
    accuracy = read("side_by_side").set_index("model")["accuracy: easy questions"]
    beside = named(read("recipe")).astype(str)
    lines = {
        "headline": [
            f"- {point}" for point in (held(table, compared), refused_too(table), price(helpful, accuracy, lasted))
        ],
        "claims": summary(judged),
        "verdicts": verdicts(judged),
        "numbers": [
            f"Profile `{made['profile']}`, seeds {', '.join(map(str, seeds))}, commit {made['commit']}, "
            f"{made['machine']}.",
            *titled("By attack, in percent", by_attack(table)),
            *titled("DeRTa less vanilla, in points (AUROC as it is)", differences(compared)),
            *titled("Harm told from its twin", by_arm(tested)),
            *titled("At one threshold of P(refusal) for each arm, in percent", at_one_threshold(read("threshold"))),
        ],
        "costs": costs(helpful),
        "lasting": lasting(lasted),
        "varied": varied(pd.read_csv(PACKAGE.parent / "tools" / "vary.csv")),
        "terms": terms(tested),
        "recipe": markdown(["", "", *beside.columns[2:]], beside.to_numpy().tolist()),
        "further": [
            *terms(others[others.split == SPLIT], (*PLACES, *FORBIDDEN)),
            "",
            *departures(read("differences", "further")),
        ],
        "labels": [labels(read("labels"))],
        "plan": costs_of_the_paper(),
        "paper": asr_of_the_paper(),
    }
    return {name: "\n".join(of) for name, of in lines.items()}


def fill(text: str, made: dict[str, str]) -> str:
    """Return a text with the blocks of `made` between its marks; it need not have all of them."""
    for name, block in made.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(start)
        if found:
            text = f"{before}{start}\n\n{block}\n\n{end}{rest.partition(end)[2]}"
    return text


PAGES = ("README.md", "docs/results.md", "docs/scale.md")

if __name__ == "__main__":
    made = blocks(PACKAGE.parent / "figures")
    for page in PAGES:
        path = PACKAGE.parent / page
        path.write_text(fill(path.read_text(encoding="utf-8"), made), encoding="utf-8")
