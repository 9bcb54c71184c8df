"""Chat templates: the day, the form of the contents, and what ends a turn."""

from datetime import datetime

import pytest
from conftest import CHATML, MISTRAL, make_tokenizer
from transformers.utils import chat_template_utils

from derta import chat, generate
from derta.chat import PAPER_CHAT
from derta.encode import DatasetSettings, Encoder
from derta.generate import Case, user
from derta.models import LM

TURNS = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
DATED = "Today Date: {{ strftime_now('%d %b %Y') }}\n" + TURNS
# In the manner of Llama 3.1, and of a template with macros of its own.
IF_UNTOLD = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}\n"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}'
    "{%- endif %}Today Date: {{ date_string }}\n" + TURNS
)
IN_A_MACRO = "{% macro head(f) %}Now: {{ strftime_now(f) }}\n{% endmacro %}{{ head('%A, %Y-%m-%d, %H:%M') }}" + TURNS


@pytest.fixture
def tokenizer():
    made = make_tokenizer("byte-level")
    made.add_special_tokens(
        {"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>", "<|end|>", "<|eot_id|>"]}
    )
    return made


@pytest.fixture
def clock(monkeypatch):
    """Set the day that transformers tells its templates."""

    class Day(datetime):
        today = 1

        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, cls.today)

    monkeypatch.setattr(chat_template_utils, "datetime", Day)
    return Day


@pytest.mark.parametrize(
    ("template", "head"),
    [
        (DATED, "Today Date: 26 Jul 2024\n"),
        (IF_UNTOLD, "Today Date: 26 Jul 2024\n"),
        (IN_A_MACRO, "Now: Friday, 2024-07-26, 00:00\n"),
        ("\n{{ strftime_now(format='%B %-d, %y') }}\n" + TURNS, "\nJuly 26, 24\n"),
        ("{% if strftime_now('%Y') | int > 2024 %}late{% else %}early\n{% endif %}" + TURNS, "early\n"),
    ],
)
def test_a_template_is_told_the_same_day_on_all_days(tokenizer, clock, template, head):
    tokenizer.chat_template = template
    assert LM("dated", tokenizer).chat("Why?") == f"{head}user\nWhy?<|im_end|>\n"
    assert tokenizer.chat_template == template


def test_a_run_goes_on_the_next_day(tiny, clock, tmp_path):
    tiny.tokenizer.chat_template = DATED
    cases = [Case(f"b{i}/direct", f"b{i}", "direct", False, 0, user(f"Question {i}")) for i in range(2)]
    assert generate.run(tiny, cases, tmp_path / "x.jsonl", batch_size=2, max_new_tokens=2) == 2
    clock.today = 2
    assert generate.run(tiny, cases, tmp_path / "x.jsonl", batch_size=2, max_new_tokens=2) == 0


GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = "{% for m in messages %}# {{ m['role'] }}\n\n{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
LLAMA2 = (
    "{% for m in messages %}{{ m['content'] + (' ' + eos_token if loop.index % 2 == 0 else ' [/INST]') }}{% endfor %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
ONE_TURN = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("template", "end"),
    [(GEMMA, "<end_of_turn>"), (PHI, "<|end|>"), (LLAMA3, "<|eot_id|>")]
    + [(template, "<|im_end|>") for template in (CHATML, MISTRAL, PAPER_CHAT, LLAMA2, NO_END, ONE_TURN, None)],
)
def test_a_row_ends_as_the_template_ends_a_turn(tokenizer, template, end):
    tokenizer.chat_template = template
    encode = Encoder(LM("any", tokenizer), DatasetSettings())
    text, last = encode.response("Sorry, no.", finished=False), tokenizer.convert_tokens_to_ids(end)
    assert encode.response("Sorry, no.", finished=True) == [*text, last]
    assert encode.response("Sorry, no.", finished=True, plain=True)[-1] == tokenizer.eos_token_id


def test_spaces_that_are_tokens_of_their_own_end_no_turn(tokenizer):
    tokenizer.add_tokens(["  "])
    tokenizer.chat_template = NO_END.replace("\n\n", "  <|end|>\n")
    assert chat.turn_end(tokenizer) == tokenizer.convert_tokens_to_ids("<|end|>")


@pytest.mark.parametrize("kind", ["metaspace", "wordpiece"])
def test_an_unknown_token_ends_no_turn(kind):
    tokenizer = make_tokenizer(kind)
    tokenizer.chat_template = MISTRAL.replace("{{ eos_token }}", "\u2603\n{{ eos_token }}")
    assert chat.turn_end(tokenizer) == tokenizer.eos_token_id


def test_generation_stops_at_the_end_of_a_turn(tiny, tokenizer):
    tiny.tokenizer = tokenizer
    tiny.model.resize_token_embeddings(len(tokenizer))
    tokenizer.chat_template = GEMMA
    (free,) = tiny.complete([user("Why?")], max_new_tokens=8)
    head, end = tiny.model.lm_head.weight.data, chat.turn_end(tokenizer)
    head[end] = 2 * head[tiny.ids(free.text)[-1]]  # twice as likely as what came last
    (ended,) = tiny.complete([user("Why?")], max_new_tokens=8)
    assert (free.finish_reason, ended.finish_reason) == ("length", "stop")
    assert free.text.startswith(ended.text)
    assert "end_of_turn" not in ended.text


PARTS = (
    "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}\n{% endif %}"
    "{% endfor %}{% endfor %}"
)
FIRST_PART = "{% for m in messages %}{{ m.role + ': ' + m['content'][0]['text'] }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        (PARTS, "How can I ride the tram?\nYes.\nAnd then?\n"),
        (FIRST_PART, "user: How can I ride the tram?\nassistant: Yes.\nuser: And then?\n"),
        (TURNS, "user\nHow can I ride the tram?<|im_end|>\nassistant\nYes.<|im_end|>\nuser\nAnd then?<|im_end|>\n"),
    ],
)
def test_a_template_gets_contents_in_the_form_that_it_shows(tokenizer, template, shown):
    tokenizer.chat_template = template
    lm = LM("parts", tokenizer)
    words = ("How can I ride the tram?", "Yes.", "And then?")
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), words, strict=True)]
    assert lm.chat(turns) == shown
    assert lm.chat(words[0]) == shown[: shown.index("Yes.")].removesuffix("assistant: ").removesuffix("assistant\n")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("You are helpful.", "parts: its chat template does not show all turns of a conversation of system, user"),
        ("{{ messages[0]['content'] }}", "does not show all turns"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
            r"\(no system role\)",
        ),
    ],
)
def test_a_template_that_drops_a_turn_is_an_error(tokenizer, template, why):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=why):
        LM("parts", tokenizer).chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
