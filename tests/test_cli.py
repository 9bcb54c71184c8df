"""The command line: what it offers, and one line for whatever goes wrong."""

import csv
import io
import re
import subprocess
import sys

import pytest
import typer

from derta.commands import asking, cli
from derta.generate import Completion

COMMANDS = ("run", "plan", "train", "report", "attack", "judge", "audit")


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "derta", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    listed = done.stdout.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.splitlines() if line.strip()] == list(COMMANDS)


def test_every_command_option_and_argument_has_a_help_text():
    group = typer.main.get_command(cli.app)
    assert list(group.commands) == list(COMMANDS)
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(derta, command):
    status, out, err = derta(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: derta {command} ")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 2, "which command? derta --help lists them"),
        (["atack"], 2, "No such command 'atack'"),
        (["attack", "m", "out", "--limits", "2"], 2, "No such option"),
        (["attack", "m"], 2, "Missing argument 'folder'"),
        (["attack"], 2, "Missing argument 'model'"),
        (["attack", "m", "out", "--limit", "0"], 2, "Invalid value for '--limit'"),
        (["attack", "m", "out", "--limit", "few"], 2, "Invalid value for '--limit'"),
        (["attack", "m", "out", "--attacks", "magic"], 1, "unknown attack 'magic'; expected one of direct, "),
        (["attack", "m", "out", "--questions", "nowhere.csv"], 1, "nowhere.csv"),
        (["attack", "./nobody", "out"], 1, "./nobody: no such model folder"),
        (["judge", "out", "--model", "m"], 2, "Missing option '--kind'"),
        (["judge", "out", "--kind", "oracle", "--model", "m"], 1, "unknown judge 'oracle'"),
        (["audit"], 2, "Missing option '--root'"),
        (["audit", "--root", "nowhere"], 1, "nowhere: no such folder"),
        (["audit", "everything", "--root", "."], 1, "unknown table 'everything'"),
        (["run", "smal"], 1, "there is no profile 'smal'; choose one of: "),
        (["run", "small", "twice"], 2, "twice"),
        (["train"], 2, "Missing option '--config'"),
        (["train", "--config", "nowhere.yaml"], 1, "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_and_nothing_is_written(derta, tmp_path, arguments, status, said):
    ended, out, err = derta(*arguments)
    assert (ended, out) == (status, "")
    assert err.startswith("derta: ")
    assert said in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_broken_file_of_questions_is_one_line(derta, tmp_path):
    (tmp_path / "mine.csv").write_text("text\nWhy?\n")
    status, _, err = derta("attack", "m", "out", "--questions", "mine.csv")
    known = "rename or add columns, parted by commas: ['text']"
    assert (status, err) == (1, f"derta: mine.csv: the header lacks question; {known}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.csv"]


def test_the_version_is_printed(derta):
    status, out, err = derta("--version")
    assert (status, out.split()[0], err) == (0, "derta", "")


def attack(derta, *arguments):
    """The rows of the table that ``derta attack`` prints."""
    status, out, err = derta("attack", *arguments, "--max-new-tokens", "4")
    assert status == 0, err
    return list(csv.DictReader(io.StringIO(out)))


def test_an_attack_prints_a_table_with_an_asr(derta, tiny_folder, tmp_path):
    rows = attack(derta, tiny_folder, tmp_path / "out", "--attacks", "direct", "--limit", "2")
    assert [(row["split"], row["attack"], row["control"], row["n"]) for row in rows] == [
        (split, "direct", control, "1") for control in ("False", "True") for split in ("validation", "test")
    ]
    assert all(0 <= float(row["asr_low"]) <= float(row["asr_percent"]) <= float(row["asr_high"]) <= 100 for row in rows)
    assert (tmp_path / "out" / "verdicts" / "tiny" / "direct.jsonl").exists()
    again = attack(derta, tiny_folder, tmp_path / "out", "--attacks", "direct", "--limit", "2")
    assert again == rows


def test_your_own_questions_are_attacked(derta, tiny_folder, tmp_path):
    (tmp_path / "mine.csv").write_text("question\nHow can I paint a fence?\n")
    rows = attack(derta, tiny_folder, tmp_path / "out", "--attacks", "direct,prefill", "--questions", "mine.csv")
    assert [(row["attack"], row["control"], row["n"]) for row in rows] == [
        ("direct", "False", "1"),
        ("prefill", "False", "1"),
    ]


def test_published_questions_are_asked_and_judged(derta, released_files, tiny_folder, tmp_path, monkeypatch):
    asked = ["attack", tiny_folder, tmp_path / "out", "--attacks", "role_play", "--sources", "paper", "--limit", 2]
    status, out, _ = derta(*asked, "--max-new-tokens", 4)
    assert status == 0
    assert [(row["split"], row["n"]) for row in csv.DictReader(io.StringIO(out))] == [("paper", "2")]
    judged = ["judge", tmp_path / "out", "--kind", "rubric", "--model", tiny_folder]
    assert "is not among the requests" in derta(*judged)[2]
    status, out, _ = derta(*judged, "--sources", "paper")
    assert status == 0
    assert [(row["attack"], row["n"]) for row in csv.DictReader(io.StringIO(out))] == [("role_play", "2")]


def test_what_is_asked_is_said_once(derta, tmp_path):
    (tmp_path / "mine.csv").write_text("question\nHow can I paint a fence?\n")
    both = ["attack", "m", "out", "--questions", "mine.csv", "--sources", "paper"]
    assert "--sources and --questions both say what is asked" in derta(*both)[2]
    assert "give one of them" in derta("attack", "m", "out", "--server", "vllm serve", "--base-url", "http://x/v1")[2]
    assert "--controls are the twins of --questions" in derta("attack", "m", "out", "--controls", "mine.csv")[2]


def test_a_stop_from_the_keyboard_is_one_line(derta, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("derta.audit.score.report", stopped)
    status, out, _ = derta("audit", "--root", ".")
    assert (status, out) == ("derta: stopped; the same command resumes from here", "")


def test_no_temperature_needs_a_server(derta, tmp_path):
    assert asking.server("m", "http://127.0.0.1:9/v1", False).temperature is False
    for command in (["attack", "m", tmp_path], ["judge", tmp_path, "--kind", "rubric", "--model", "m"]):
        status, out, err = derta(*command, "--no-temperature")
        assert (status, out, err) == (1, "", "derta: --no-temperature belongs to --base-url\n")


def test_a_price_is_shown_before_a_server_is_asked(derta, tmp_path, monkeypatch):
    class Answers:
        """An endpoint that refuses."""

        name, batched = "m", False

        def fingerprint(self):
            return "m"

        def render(self, prompt):
            return prompt.messages[0]["content"]

        def complete(self, prompts, **decoding):
            return [Completion("Sorry, but I can't help with that.", "stop", 9, 9) for _ in prompts]

    monkeypatch.setattr(asking, "server", lambda *_: Answers())
    asked = ["attack", "m", tmp_path, "--base-url", "http://x/v1", "--attacks", "direct", "--limit", 4]
    status, _, said = derta(*asked, "--prices", 100, 1000, "--budget", 9)
    assert status == 0
    assert re.match(r"8 requests to m, at most \$\d\.\d\d; the budget is \$9.00\n", said)


def test_a_budget_belongs_to_prices_and_prices_to_a_server(derta, tmp_path):
    assert "--budget needs --prices" in derta("attack", "m", tmp_path, "--budget", 9)[2]
    assert "--prices belongs to --base-url" in derta("attack", "m", tmp_path, "--prices", 1, 2)[2]
