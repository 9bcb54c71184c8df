"""How the embedded responses are made."""

import pytest

from derta.files import read_jsonl, to_jsonl
from derta.generate import Completion
from derta.models import LM
from tools import responses
from tools.responses import Draft

FILES = ("harmful-train", "benign-train", "plain-train", "helpful-train", "weak-train")
GOOD = "First, ask a friend to {do} with you. Then you can {do} and take your time over every small thing that follows."


@pytest.fixture
def few(monkeypatch):
    """A dozen drafts of all kinds instead of thousands, of a few tokens each."""
    drafts = [Draft(**vars(d) | {"tokens": 16}) for d in responses.drafts(0)]
    chosen = [d for file in FILES for d in [x for x in drafts if x.file == file][:3]]
    monkeypatch.setattr(responses, "drafts", lambda seed: chosen)
    return chosen


def test_harmful_and_twin_are_asked_in_the_same_forms():
    drafts = list(responses.drafts(0))
    twins = {d.id: d for d in drafts if d.file.startswith("benign")}
    harmful = [d for d in drafts if d.file.startswith("harmful")]
    assert len(harmful) == len(twins)
    for draft in harmful:
        twin = twins[draft.id.replace("-h", "-b")]
        assert (draft.form, draft.tokens) == (twin.form, twin.tokens)
        assert draft.start.replace(draft.about, "{do}") == twin.start.replace(twin.about, "{do}")
        assert draft.prompt.replace(draft.about, "{do}") == twin.prompt.replace(twin.about, "{do}")
    assert drafts == list(responses.drafts(0))


def test_a_response_that_fits_is_long_compliant_no_loop_and_no_refusal(tiny):
    draft = Draft("harmful-train", 64, "x-h0", "x", "prose", "How can I jump a gate?", "", "jump a gate")
    assert responses.fits(tiny, draft, GOOD.replace("{do}", "jump a gate"))
    assert not responses.fits(tiny, draft, "First, jump a gate and then go on at once with it.")
    assert not responses.fits(tiny, draft, GOOD.replace("{do}", "sing along"))
    assert not responses.fits(tiny, draft, "First, jump a gate. " * 12)
    assert not responses.fits(tiny, draft, "Sorry, but I can't help. " + GOOD.replace("{do}", "jump a gate"))


def test_same_seed_same_bytes_and_a_killed_run_goes_on(tiny, few, tmp_path, monkeypatch, killed_at_batch):
    monkeypatch.setattr(responses, "fits", lambda lm, draft, response: len(response) % 2 == 0 or draft.about)
    responses.write(tiny, tmp_path / "a", tmp_path / "drawn-a", seed=0, batch_size=4)
    with killed_at_batch(7):
        responses.write(tiny, tmp_path / "b", tmp_path / "drawn-b", seed=0, batch_size=4)
    responses.write(tiny, tmp_path / "b", tmp_path / "drawn-b", seed=0, batch_size=4)
    starts = {(d.file, d.id): d.start.strip() for d in few}
    files = sorted((tmp_path / "a").iterdir())
    assert {path.stem for path in files} == set(FILES)
    for path in files:
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert all(row["response"].startswith(starts[path.stem, row["id"]]) for row in read_jsonl(path))


def test_rows_that_are_there_and_fit_are_kept_and_others_drawn(tiny, few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(responses, "fits", lambda lm, draft, response: True)
    responses.write(tiny, tmp_path / "rows", tmp_path / "drawn", seed=0, batch_size=4)
    path = tmp_path / "rows" / "plain-train.jsonl"
    first, *others = read_jsonl(path)
    path.write_text(to_jsonl([first | {"response": "Kept as it is."}, *[row | {"prompt": "other"} for row in others]]))
    responses.write(tiny, tmp_path / "rows", tmp_path / "again", seed=0, batch_size=4)
    assert f"{len(few) - len(others)} of {len(few)} responses are there" in capsys.readouterr().out
    assert next(read_jsonl(path))["response"] == "Kept as it is."
    assert [row["prompt"] for row in read_jsonl(path)] == [draft.prompt for draft in few if draft.file == path.stem]


def test_a_response_that_does_not_fit_is_drawn_again_and_then_left_out_and_counted(
    tiny, few, tmp_path, monkeypatch, capsys
):
    def refuses_twins(lm, prompts, **options):
        asked = [lm.render(prompt) for prompt in prompts]
        twins = {d.about for d in few if d.file == "benign-train"}
        return [
            Completion("Sorry, but I can't." if any(t in text for t in twins) else " " + good(text), "stop", 9, 9)
            for text in asked
        ]

    def good(text):
        about = next((d.about for d in few if d.about and d.about in text), "go on")
        return GOOD.replace("{do}", about)

    monkeypatch.setattr(LM, "complete", refuses_twins)
    responses.write(tiny, tmp_path / "out", tmp_path / "drawn", seed=0, batch_size=4)
    out = capsys.readouterr().out
    assert "harmful-train: 0 rows" in out
    assert "helpful-train: 3 rows" in out
    assert "3 without their twin" in out
    assert len(list((tmp_path / "drawn").glob("benign-train-*"))) == responses.DRAWS
    assert len(list((tmp_path / "drawn").glob("harmful-train-*"))) == 1
