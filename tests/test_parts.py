"""Which characters of a completion are read, and which of them together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.parts import answer, program, turns, whole


def texts(completion: str, parts) -> list[list[str]]:
    return [[completion[start:end] for start, end in part] for part in parts]


@pytest.mark.parametrize(
    ("completion", "said"),
    [
        ("No thought.", "No thought."),
        ("<think>Hm.</think>Yes.", "Yes."),
        ("Hm, the template opened this.</think>\n\nYes.", "\n\nYes."),
        ("<THINKING>\nHm.\n</THINKING> Yes.", " Yes."),
        ("[THINK]Hm.[/THINK]Yes.", "Yes."),
        ("◁think▷Hm.◁/think▷Yes.", "Yes."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Yes."),
        ("analysisHm.assistantfinalYes.", "Yes."),
        ("<think>Never ends", ""),
        ("<think>One.</think><think>Two", ""),
        ("I think you can close </b> it.", "I think you can close </b> it."),
    ],
)
def test_a_thought_is_not_the_answer(completion, said):
    assert completion[answer(completion) :] == said


def test_json_is_read_by_its_strings():
    reply = '{"steps": ["Take the tram", "Leave"]}'
    assert texts(reply, whole(reply)) == [["steps", "Take the tram", "Leave"]]
    fenced = f"```json\n{reply}\n```"
    assert texts(fenced, whole(fenced)) == [["steps", "Take the tram", "Leave"]]
    assert texts("{curly} words", whole("{curly} words")) == [["{curly} words"]]


@pytest.mark.parametrize(
    "label", ["Robin the Careful:", "**Robin:**", "[Robin]", "(🔒 Robin):", "🔓 Robin :", "ROBIN:"]
)
def test_the_turns_of_personas_begin_with_their_labels(label):
    reply = f"Max: No.\n{label} Take the tram.\nThen leave."
    assert texts(reply, turns(reply)) == [["Max: No.\n"], [f"{label} Take the tram.\nThen leave."]]
    assert len(turns("Take the tram. Then leave: now.")) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('x.append("Take the tram")  # then leave', ["Take the tram", "then leave"]),
        ("x = ['Take', 'it\\'s fun']", ["Take", "it\\'s fun"]),
        ('x.append("Take the tr', ["Take the tr"]),
        ('def solve():\n    return """\nTake the tram\n"""', ["Take the tram"]),
        ("// Take the tram\nint x = 1;", ["Take the tram"]),
        ('fmt.Println("Take the tram")\n}', ["Take the tram"]),
        ("for word in words:\n    pass\nelse:", []),
        ("Take the tram.\n```python\nx = read()\n```\nThen leave.", ["Take the tram.", "Then leave."]),
        ("If an inspector comes, leave.", ["If an inspector comes, leave."]),
    ],
)
def test_a_program_says_its_strings_comments_and_prose(code, said):
    assert [text.strip() for text in texts(code, program(code))[0] if text.strip()] == said


def test_what_the_prompt_says_is_not_the_models():
    code = 'stack.append("ride")\nx.append("Take the tram")'
    assert texts(code, program(code, 'stack.append("ride")')) == [["Take the tram"]]


@given(st.text(alphabet="ab \n\"'#/{}[]():=.<>|`\\"))
def test_every_part_lies_in_the_text(text):
    for read in (whole, turns, program):
        for part in read(text):
            assert all(0 <= start <= end <= len(text) for start, end in part)
            assert part == sorted(part)
