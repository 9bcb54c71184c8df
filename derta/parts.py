"""Which characters of a completion are the model's answer, and which of them are judged together."""

import re
from itertools import pairwise

# Characters `start` to `end` of a completion; the spans that are read as one text; the parts that are judged
# separately.
Span = tuple[int, int]
Part = list[Span]
Parts = list[Part]

# The end of a thought, and a thought that never ends, in the markup of several model families.
_THOUGHT_ENDS = re.compile(
    r"</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<unused95>"
    r"|<\|channel\|>final<\|message\|>|assistantfinal(?=[A-Z\W])",
    re.IGNORECASE,
)
_THOUGHT = re.compile(
    r"\s*(?:<(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷|<unused94>|<\|channel\|>analysis)",
    re.IGNORECASE,
)
# The label of a persona at the start of its turn; role-play templates often ask for the replies of two.
_PERSONA = re.compile(
    r"^(?:[^\w\n]|_)*(?:[A-Z][\w.’']*(?: (?:the |of )?[A-Z][\w.’']*){0,2}[\])*]*|(?<=[^\w\s])) ?:"
    r"|^[*_ ]*[\[(][^\]\w\n]{0,3}[A-Z][^\]\n]{0,25}[\])]",
    re.MULTILINE,
)
# Strings, also one that is cut off, and comments: the parts of a program that are written for a reader.
_WRITTEN = re.compile(
    r'"""(?P<a>.*?)(?:"""|\Z)'
    r"|'''(?P<b>.*?)(?:'''|\Z)"
    r'|"(?P<c>(?:[^"\\\n]|\\.)*)(?:"|$)'
    r"|(?<!\w)'(?P<d>(?:[^'\\\n]|\\.){0,1000})'"
    r"|(?<!\S)(?:#+|//+) ?(?P<e>[^\n]*)"
    r"|/\*(?P<f>.*?)(?:\*/|\Z)",
    re.DOTALL | re.MULTILINE,
)
# A line of a program: a call, an assignment, a definition, a bracket, or the start of a string or a comment.
_CODE = re.compile(
    r"\w\(|^[\w.\[\]'\"<>:* ]+ ?(?:=|\+=|:=|<<) ?\S|^(?:def|class|import|from \w+ import|package|using|func|return"
    r"|pass|try|else|break|continue)\b[^.!?]*$|^(?:for|while|if|elif|with|switch|except)\b.*[:{]$|[;{}]$"
    r"|^[\[\]{}(),;]+$|^[\"'#\[{]|^//|^/\*|^\w+ ?[:=]$"
)
# The start of JSON, and the pieces that a program is read in: a string over several lines, or a line.
_JSON = re.compile(r"\s*(?:```\w*\s*)?[{\[]\s*[\"{\[]")
_LINES = re.compile(r'("""|\'\'\').*?(?:\1|\Z)|[^\n]+', re.DOTALL)


def answer(completion: str) -> int:
    """Return where the answer begins: behind the last thought; at the end for a thought without an answer."""
    *_, end = [0, *(found.end() for found in _THOUGHT_ENDS.finditer(completion))]
    return len(completion) if _THOUGHT.match(completion, end) else end


def whole(completion: str, prompt: str = "") -> Parts:
    """Return all of an answer as one part; of JSON, its strings."""
    start = answer(completion)
    if _JSON.match(completion, start):
        return [_written(completion, (start, len(completion)))]
    return [[(start, len(completion))]]


def turns(completion: str, prompt: str = "") -> Parts:
    """Split an answer into the turns of personas, one part each; a text without their labels is one turn."""
    first, last = answer(completion), len(completion)
    starts = [label.start() for label in _PERSONA.finditer(completion, first) if label.start() > first]
    return [[span] for span in pairwise([first, *starts, last])]


def program(completion: str, prompt: str = "") -> Parts:
    """Return as one part what an answer that is a program says to its reader.

    Strings, comments, and lines that are no code: before it, after it, or between its lines. What the attack's prompt
    holds already, such as the words on its stack, is left out.
    """
    spans: Part = []
    for found in _LINES.finditer(completion, answer(completion)):
        line = found[0].strip()
        if line.startswith("```"):
            continue
        spans += _written(completion, found.span()) if found[1] or _CODE.search(line) else [found.span()]
    return [[(a, b) for a, b in spans if completion[a:b].strip() not in prompt]]


def _written(completion: str, span: Span) -> Part:
    return [found.span(found.lastgroup) for found in _WRITTEN.finditer(completion, *span) if found.lastgroup]
