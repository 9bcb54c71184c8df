"""The faults that ``tools/mutations.py`` makes on purpose still have a place to be made in."""

import pytest

from derta.runs import CHECKOUT
from tools.mutations import MUTATIONS, mutate


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.wrong)
def test_a_mutation_finds_its_text_and_its_tests(mutation):
    assert mutation.old in (CHECKOUT / mutation.file).read_text(encoding="utf-8")
    assert all((CHECKOUT / "tests" / f"{name}.py").is_file() for name in mutation.tests.split())


def test_a_text_that_is_gone_is_named(tmp_path):
    (tmp_path / "README.md").write_text("nothing of it", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: does not hold .*; adapt the mutation"):
        mutate(tmp_path, next(m for m in MUTATIONS if m.file == "README.md"))
