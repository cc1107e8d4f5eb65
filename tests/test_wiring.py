import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrecipe import codec, wiring
from llmrecipe.errors import PlanError, RecipeError
from llmrecipe.extend import Section, define
from llmrecipe.sections import MixSection
from llmrecipe.wiring import Wiring

NAMES = st.text(min_size=1)
WIRINGS = st.builds(
    Wiring, inputs=st.dictionaries(NAMES, NAMES), extensions=st.lists(NAMES).map(lambda names: tuple(sorted(names)))
)


@given(WIRINGS)
def test_an_entry_gives_back_the_section_and_the_wiring_that_it_was_written_from(tied):
    section = MixSection(shares=(1.0, 2.0))
    plain, found = wiring.read(wiring.written(section, tied), "params/a.yaml:a-mix")
    assert codec.structure(plain, MixSection, "") == section
    assert found == tied


@pytest.mark.parametrize("entry", [{"inputs": ["tokens"]}, {"inputs": {"tokens": 1}}, {"extensions": "own.py"}])
def test_a_wiring_that_is_none_is_refused_with_its_path(entry):
    with pytest.raises(RecipeError, match=r"^params/a\.yaml:a-mix\.(inputs|extensions)"):
        wiring.read(entry, "params/a.yaml:a-mix")


def test_a_section_of_ones_own_can_not_have_a_field_where_the_wiring_stands():
    @define("merge")
    class MergeSection(Section):
        """Models to one."""

        inputs: int = 2

    with pytest.raises(PlanError, match=r"MergeSection\.inputs: .* rename the field"):
        wiring.written(MergeSection(), Wiring())
