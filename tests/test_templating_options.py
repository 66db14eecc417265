from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_datasets.templating.draw import Draw
from ipt_datasets.templating.library import load_library, normalised
from ipt_datasets.templating.options import OptionStyle, arrange, count, match, roman_numeral, show
from ipt_datasets.templating.template_file import COUNTERS, Template

LAST = load_library().last
CITIES = ("Paris", "Rome", "Oslo", "Lima")


def arranged(options, response, rationale="", seed=0):
    return arrange(options, response, rationale, LAST, Draw.seeded(seed), "options of pair 0")


def style(item="({A}) {option}", response="{item}", delimiter="\n", lead_in="Options:"):
    return OptionStyle(Template.compile(item), lead_in, delimiter, Template.compile(response))


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("Rome", (1,)),
        ("rome.", (1,)),
        ("  Rome ", (1,)),
        ("Rome and Lima", (1, 3)),
        ("Rome, Lima", (1, 3)),
        ("Lima; Rome", (3, 1)),
        ("Paris, Rome, and Oslo.", (0, 1, 2)),
        ("Paris\nOslo", (0, 2)),
        ("Madrid", ()),
        ("Rome or thereabouts", ()),
        ("", ()),
        (".", ()),
    ],
)
def test_a_response_in_words_is_shown_as_given(response, found):
    assert match(CITIES, response) == (found, response)


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        ("B", "Rome"),
        ("b", "Rome"),
        ("(B)", "Rome"),
        ("B.", "Rome"),
        ("b)", "Rome"),
        ("[b]", "Rome"),
        ("(2)", "Rome"),
        ("Answer: b", "Rome"),
        ("The correct answer is (B).", "Rome"),
        ("Option D", "Lima"),
        ("(B) Rome", "Rome"),
        ("C. Rome", "Rome"),  # its words win over a label that says something else
        ("Answer: Rome", "Rome"),
        ("Answer: (B) Rome", "Rome"),
        ("A and C", "Paris and Oslo"),
        ("A, B, and D", "Paris, Rome and Lima"),
        ("(A); (D)", "Paris and Lima"),
    ],
)
def test_a_label_is_replaced_by_what_it_stands_for(response, shown):
    found, words = match(CITIES, response)
    assert words == shown
    assert [CITIES[at] for at in found] == shown.replace(" and ", ", ").split(", ")


@pytest.mark.parametrize(
    ("options", "response"),
    [
        (("A", "C"), "B"),  # letters are words here
        (("3", "4", "5"), "2"),
        (("3", "4", "5"), "(2)"),
        (CITIES, "E"),
        (CITIES, "Rome wasn't built in a day"),
        (("5", "6"), "1.5"),
        (("", " "), ""),
    ],
)
def test_what_is_no_option_is_not_taken_for_one(options, response):
    assert match(options, response) == ((), response)


def test_none_is_taken_for_none_of_the_above():
    assert match((*CITIES, "None of the above"), "None.", LAST) == ((4,), "None.")
    assert match((*CITIES, "All of the above"), "None.", LAST) == ((), "None.")


def test_options_that_hold_joints_are_found_whole():
    options = ("salt and pepper", "salt", "oil, vinegar", "oil")
    assert match(options, "salt and pepper and oil, vinegar")[0] == (0, 2)
    assert match(options, "salt and oil")[0] == (1, 3)


def test_a_response_that_repeats_an_option_thousands_of_times_is_no_crash():
    assert match(CITIES, "Rome, " * 5000 + "x")[0] == ()


def test_the_right_option_is_uniform_over_positions_whatever_its_place_was():
    # Fixed seeds, so this cannot flicker; 3 degrees of freedom, 16.27 is the 0.1 % point.
    for response in CITIES:
        places = Counter(arranged(CITIES, response, seed=seed).right[0] for seed in range(2000))
        assert sum((places[at] - 500) ** 2 / 500 for at in range(4)) < 16.27


def test_none_of_the_above_stays_last_and_the_others_are_shuffled():
    options = ("None of the above.", *CITIES, "ALL OF THE ABOVE")
    orders = {arranged(options, "Rome", seed=seed).options for seed in range(200)}
    assert len(orders) == 24
    assert {order[-2:] for order in orders} == {("None of the above.", "ALL OF THE ABOVE")}


@pytest.mark.parametrize("naming", ["Both A and B", "A and C only", "neither (A) nor (B)", "B, C, and D"])
def test_options_that_name_others_keep_order_and_letters(naming):
    options = ("Paris", "Rome", "Oslo", naming)
    for seed in range(20):
        shown = arranged(options, naming, seed=seed)
        assert (shown.options, shown.right, shown.labels) == (options, (3,), "A")


@pytest.mark.parametrize(
    ("rationale", "labels"),
    [
        ("Option B is too far south.", "A"),
        ("(C) is the capital.", "A"),
        ("It is the capital.\nCorrect answer - B", "A"),
        ("So the answer is C.", "A"),
        ("Only option 2 is a capital.", "1"),
    ],
)
def test_a_rationale_that_names_options_keeps_their_order(rationale, labels):
    shown = arranged(CITIES, "Rome", rationale, seed=3)
    assert (shown.options, shown.labels) == (CITIES, labels)
    assert arranged(CITIES, "Rome", "An option is a choice I made.", seed=3).labels == ""


def test_options_with_labels_of_their_own_get_no_second_one():
    options = ("A)21", "B)22", "C)None of these")
    for seed in range(20):
        shown = arranged(options, "B", seed=seed)
        assert (shown.options, shown.labels, shown.response) == (options, "none", "B)22")
    assert arranged(("1.5 m", "2.5 m"), "1.5 m").labels == ""


def test_repeated_and_blank_options_are_shown_once_and_never():
    shown = arranged(("Rome", "", "Rome", "Oslo", " "), "Rome")
    assert sorted(shown.options) == ["Oslo", "Rome"]
    assert len(shown.right) == 1
    # A label counts the options as they were given.
    assert arranged(("Rome", "", "Rome", "Oslo"), "D").response == "Oslo"


def test_labels_of_several_right_options_stand_beside_the_words():
    shown = arranged(CITIES, "Rome and Lima", seed=1)
    labels = [count("A", at) for at in shown.right]
    _, answer = show(shown, style(response="{response} ({label})"))
    assert answer == f"Rome and Lima ({', '.join(labels)})"
    assert {shown.options[at] for at in shown.right} == {"Rome", "Lima"}


def test_labels_go_on_past_26_options():
    options = tuple(f"city {at}" for at in range(60))
    block, answer = show(arranged(options, "city 41"), style())
    lines = block.splitlines()[1:]
    assert sorted(line.split(") ", 1)[1] for line in lines) == sorted(options)
    assert [line.split(")")[0] for line in lines][25:29] == ["(Z", "(AA", "(AB", "(AC"]
    assert answer in lines


def test_a_response_of_no_option_carries_no_label():
    for response in ("{item}", "{label}: {response}"):
        assert show(arranged(CITIES, "Madrid"), style(response=response))[1] == "Madrid"


def test_options_stand_on_one_line_only_where_that_is_readable():
    assert show(arranged(("Rome",), "Rome"), style(delimiter="; "))[0] == "Options: (A) Rome"
    for options in (("Rome; Italy", "Oslo"), ("Ro\nme", "Oslo"), ("x" * 200, "Oslo")):
        assert "\n(B) " in show(arranged(options, "Oslo"), style(delimiter="; "))[0]
    assert "\n- " in show(arranged(CITIES, "Oslo"), style(item="- {option}", delimiter="; "))[0]


def test_roman_numerals():
    assert [roman_numeral(n) for n in (1, 4, 9, 14, 40, 49, 90, 1999)] == [
        "I", "IV", "IX", "XIV", "XL", "XLIX", "XC", "MCMXCIX",
    ]  # fmt: skip


@pytest.mark.parametrize("counter", COUNTERS)
def test_labels_never_repeat(counter):
    assert len({count(counter, at) for at in range(3000)}) == 3000


@settings(max_examples=100)
@given(
    options=st.lists(st.text(max_size=30), min_size=1, max_size=40).filter(lambda all_: any(o.strip() for o in all_)),
    response=st.text(max_size=40),
    rationale=st.text(max_size=40),
    counter=st.sampled_from(COUNTERS),
    delimiter=st.sampled_from(["\n", "; ", " | "]),
    form=st.sampled_from(["{response}", "{item}", "{response} ({label})"]),
)
def test_every_option_and_the_response_are_shown_byte_for_byte(options, response, rationale, counter, delimiter, form):
    shown = arrange(options, response, rationale, LAST, Draw.seeded(7), "d")
    block, answer = show(shown, style(f"{{{counter}}}. {{option}}", form, delimiter))
    assert all(option in block for option in options if option.strip())
    assert shown.response in answer
    if shown.response != response:
        assert shown.right
    meant = {normalised(option) for option in options}
    if normalised(response) in meant and response.strip(" ."):
        assert response in answer


@settings(max_examples=100)
@given(st.integers(0, 200), st.integers(), st.text())
def test_a_permutation_holds_every_place_once(length, seed, decision):
    assert sorted(Draw.seeded(seed).permutation(decision, length)) == list(range(length))


def test_decisions_and_scopes_are_independent_of_each_other():
    draws = [Draw.seeded(seed).within("chain") for seed in range(1200)]
    joint = Counter((int(d.fraction("one") * 6), int(d.fraction("other") * 6)) for d in draws)
    assert len(joint) == 36
    scopes = Counter((int(d.fraction("one") * 6), int(d.within("shot 0").fraction("one") * 6)) for d in draws)
    assert len(scopes) == 36


def test_names_do_not_run_together():
    draw = Draw.seeded(1)
    assert draw.within("ab").within("c").fraction("x") != draw.within("a").within("bc").fraction("x")
    assert draw.within("a").fraction("x") != draw.fraction("ax")
