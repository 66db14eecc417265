import pytest

from ipt_datasets.errors import InputError
from ipt_datasets.templating.library import load_library
from ipt_datasets.templating.template_file import FRAMES, SECTIONS, Template, read_templates

KINDS = {
    "pairs.free_form": 60,
    "pairs.multiple_choice": 40,
    "pairs.chain_of_thought": 40,
    "pairs.multiple_choice_chain_of_thought": 40,
}


def load(content):
    return load_library((("mine.toml", content),))


def test_the_shipped_library_fills_every_section():
    library = load_library()
    assert set(library.forms) | set(library.couples) >= set(SECTIONS)
    assert set(library.frame_weights) == set(FRAMES)
    for section, least in {**KINDS, "text.lead_ins": 60, "options.items": 40, "options.lead_ins": 20}.items():
        assert len(library.forms[section].entries) >= least


def test_no_shipped_form_of_a_pair_points_at_the_text_by_its_place():
    for section in KINDS:
        for form in load_library().forms[section].entries:
            assert not any(word in form.source.lower() for word in ("above", "below", "preceding"))


def test_no_shipped_form_of_a_pair_announces_its_options_twice():
    for section in KINDS:
        for form in load_library().forms[section].entries:
            before = form.source.split("{options}")[0].rsplit("\n", 2)
            assert "{options}" not in form.source or not before[-1].endswith(":")


def test_a_users_entries_are_added_and_weighted():
    shipped = load_library().forms["pairs.free_form"]
    mine = load('[pairs]\nfree_form = [{ form = "Ask {instruction}\\nTell {response}", weight = 50 }]')
    added = mine.forms["pairs.free_form"]
    assert added.entries[:-1] == shipped.entries
    assert added.entries[-1].source == "Ask {instruction}\nTell {response}"
    assert added.cumulative[-1] == shipped.cumulative[-1] + 50


def test_a_users_lists_can_take_the_place_of_the_shipped_ones():
    mine = load('replace = true\n[pairs]\nfree_form = ["问：{instruction}\\n答：{response}"]\n[frames]\nalike = 1')
    assert [form.source for form in mine.forms["pairs.free_form"].entries] == ["问：{instruction}\n答：{response}"]
    assert mine.forms["pairs.multiple_choice"] == load_library().forms["pairs.multiple_choice"]
    assert mine.alike == 1
    assert load("[frames]\nweights = { dialogue = 2 }").frame_weights == {"dialogue": 2}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('[pairs]\nfree_form = ["{instruction}"]', "pairs.free_form[0]: {response} must stand in it exactly once"),
        ('[pairs]\nfree_form = ["{response}"]', "{instruction} must stand"),
        ('[pairs]\nfree_form = ["{instruction} {response} {response}"]', "{response} must stand"),
        ('[pairs]\nmultiple_choice = ["{instruction} {response}"]', "{options} must stand"),
        ('[pairs]\nchain_of_thought = ["{instruction} {response}"]', "{rationale} must stand"),
        ('[pairs]\nfree_form = ["{instruction}? {response}"]', "punctuation right behind {instruction}"),
        ('[pairs]\nfree_form = ["{instruction}\\n{response}."]', "punctuation right behind {response}"),
        ('[pairs]\nfree_form = ["{instruction} {answer} {response}"]', "unknown {answer}"),
        ('[pairs]\nfree_form = ["Q: {instruction} A: {response}", 3]', "pairs.free_form[1]: expected a string"),
        ('[pairs]\nfree_form = "{instruction} {response}"', "must be a list"),
        ("[pairs]\nfree_form = []", "at least one entry"),
        ('[pairs]\nfree_form = ["{instruction} {response}", "{instruction} {response}"]', "twice"),
        ('[pairs]\nfree_form = [{ form = "{instruction} {response}", weight = 0 }]', "above 0"),
        ('[pairs]\nfree_form = [{ form = "{instruction} {response}" }]', "form and weight"),
        ('[pears]\nfree_form = ["{instruction} {response}"]', "unknown section 'pears.free_form'"),
        ('[options]\nresponses = ["{label}"]', "it must show the answer's words"),
        ('[options]\nitems = ["{A} {1} {option}"]', "one counter is enough"),
        ('[numbered]\nlabels = [["Question", "Answer"]]', "one counter is needed"),
        ('[dialogue]\nspeakers = ["User"]', "expected two strings"),
        ('[dialogue]\nhandovers = [["Hello", "Hello"]]', "hands over {text}"),
        ('[separators]\nshots = ["\\n"]', "needs a blank line"),
        ('[separators]\npairs = ["\\n\\n---\\n\\n"]', "shots would run together"),
        ('replace = true\n[options]\nitems = ["{option}"]', "no entry left for options.items A"),
        ("[frames]\nweights = { classical = 1 }", "frames.weights must map names out of classic"),
        ("[frames]\nalike = 2", "alike a number from 0 to 1"),
        ("[frames]\nfoo = 2", "unknown section 'frames.foo'"),
        ("frames = 3", "unknown section 'frames'"),
        ("[pairs", "is not TOML"),
    ],
)
def test_a_bad_entry_is_named(content, named):
    with pytest.raises(InputError) as error:
        load(content)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_every_problem_names_the_file():
    with pytest.raises(InputError, match=r"mine\.toml: pairs\.free_form\[0\]"):
        read_templates("mine.toml", '[pairs]\nfree_form = ["{response}"]')


def test_other_braces_of_a_form_are_kept():
    assert Template.compile("{ {x} {{x}} {} %s").fill({"x": "{x}"}) == "{ {x} {{x}} {} %s"
