"""Chat templates: conversations → text, and the token that ends an assistant's turn.

A template is used as the model brings it, but always on the same day, so that rows, prompts and results do not depend
on when they are made.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# The paper's training format, backslash included (arXiv 2407.09121, Appendix; its evaluation adds newlines).
PAPER_CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [\\INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}"
)

# SmolLM2's own format without its default system prompt, which would be a fifth of the tokens of a row here.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The day that templates are told: the one that Llama 3.1's names if it is told none.
TODAY = date(2024, 7, 26)

# A macro before the template hides the function of the same name, which tells the time.
_CODES = ["%-d", "%-m", *(f"%{code}" for code in "aAbBcdDeFfGHIjmMpRSTuUVwWxXyYzZ")]
_ON_THAT_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{TODAY.strftime(code)}')" for code in _CODES)
    + " }}{% endmacro +%}"
)


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], *, opening: bool = True) -> str:
    """Render a conversation as text; `opening` adds the opening of the reply.

    A template may want each content as a list of typed parts, and show nothing of a plain one (Llama-Guard-3-1B's).
    Which form it takes is seen from texts of our own with the same roles.

    Raises:
        ValueError: there is no template, or it does not show all turns in either form.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template; save one with it (tokenizer.chat_template = "
            "derta.chat.PAPER_CHAT is the paper's) or use an instruction-tuned model"
        )
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _ON_THAT_DAY + template

    def text(contents: Sequence[str], parts: bool) -> str:
        formed: list[Any] = [[{"type": "text", "text": content}] if parts else content for content in contents]
        return tokenizer.apply_chat_template(
            [{**turn, "content": content} for turn, content in zip(turns, formed, strict=True)],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=opening,
        )

    marks, why = [f"Text {i}." for i in range(len(turns))], ""
    for parts in (False, True):
        try:
            shown = text(marks, parts)
        except (TemplateError, TypeError) as error:  # of our own texts, so of their roles or form
            why = why or f" ({error})"
            continue
        if all(mark in shown for mark in marks):
            return text([turn["content"] for turn in turns], parts)
    roles = ", ".join(turn["role"] for turn in turns)
    raise ValueError(f"its chat template does not show all turns of a conversation of {roles}{why}")


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an assistant's turn: what the template puts after its text, whatever else follows.

    It is the end of sequence where there is no template, or it puts no token of its own there.
    """
    reply = "Certainly."
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": reply}]
    try:
        _, _, after = render(tokenizer, turns, opening=False).rpartition(reply)
    except ValueError:
        after = ""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    ids = tokenizer(after, add_special_tokens=False).input_ids
    # Some tokenizers also hold runs of spaces as tokens of this kind.
    ends = (token for token in ids if token in special and tokenizer.decode(token).strip())
    return next(ends, tokenizer.eos_token_id)
