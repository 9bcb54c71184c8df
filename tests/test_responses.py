"""How the embedded responses are made."""

import pytest

from derta import responses
from derta.generate import Completion
from derta.judge import REFUSAL
from derta.runs import read_jsonl

LIMITS = {"harmful-train": 24, "benign-train": 24, "plain-train": 24, "helpful-train": 24}


@pytest.fixture
def few(monkeypatch):
    """A dozen drafts of all kinds instead of thousands."""
    drafts = [d for d in responses.drafts(seed=0, per_behaviour=2) if d["file"] in LIMITS]
    chosen = [d for file in LIMITS for d in [x for x in drafts if x["file"] == file][:3]]
    monkeypatch.setattr(responses, "drafts", lambda *args: chosen)
    return chosen


def test_harmful_and_twin_are_asked_in_the_same_forms():
    drafts = list(responses.drafts(seed=0, per_behaviour=2))
    forms = {d["id"]: d["form"] for d in drafts}
    harmful = [d for d in drafts if d["file"].startswith("harmful")]
    assert all(forms[d["id"].replace("-h", "-b")] == d["form"] for d in harmful)
    assert drafts == list(responses.drafts(seed=0, per_behaviour=2))


def test_same_seed_same_bytes_and_every_response_begins_as_it_was_started(tiny, few, tmp_path):
    for name in ("a", "b"):
        responses.write(tiny, tmp_path / name, seed=0, per_behaviour=2, tokens=LIMITS, batch_size=4)
    starts = {d["id"]: d["start"].strip() for d in few}
    rows = [row for path in sorted((tmp_path / "a").iterdir()) for row in read_jsonl(path)]
    assert rows
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert all(row["response"].startswith(starts[row["id"]]) for row in rows)


def test_what_refuses_is_drawn_again_and_then_left_out_and_counted(tiny, few, tmp_path, monkeypatch, capsys):
    def refuses(lm, prompts, **options):
        return [Completion("Sorry, but I can't help with that, not today.", "stop", 9) for _ in prompts]

    monkeypatch.setattr(responses, "complete", refuses)
    responses.write(tiny, tmp_path, seed=0, per_behaviour=2, tokens=LIMITS, batch_size=4)
    assert REFUSAL.search(refuses(tiny, [""])[0].text)
    out = capsys.readouterr().out
    assert "harmful-train: 0 rows" in out
    assert f"left out after five draws: {len(few)} {few[0]['id']}" in out
