"""Documents to texts: what is drawn for each shot, and how each frame is written.

Planning reads the contents and settles what depends on them; writing puts them into forms and looks at them no more.
So a plan whose contents are blanked gives the text's skeleton, by the same code that writes the text.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ipt_datasets.schema import Pair
from ipt_datasets.templating import options as choice
from ipt_datasets.templating.documents import Document
from ipt_datasets.templating.draw import Draw
from ipt_datasets.templating.library import Library
from ipt_datasets.templating.options import Arranged, OptionStyle
from ipt_datasets.templating.template_file import FRAMES, Template, counter_family

_SENTENCE_ENDS, _CLOSING = tuple(".!?…:;。！？：；"), "\"'”’»)]"


class Style:
    """What is drawn for a shot, each list of the library once and independently of the others."""

    def __init__(self, library: Library, draw: Draw) -> None:
        self.library = library
        self.draw = draw
        self._forms: dict[str, Template] = {}
        self._nouns: dict[str, str] = {}
        self._options: dict[tuple[str, bool, str], OptionStyle] = {}

    def form(self, section: str) -> Template:
        """Draw a form; the same one whenever it is asked again."""
        form = self._forms.get(section)
        if form is None:
            choices = self.library.forms[section]
            form = self._forms[section] = choices.entries[self.draw.weighted(section, choices.cumulative)]
        return form

    def couple(self, section: str) -> tuple[Template, Template]:
        """Draw a couple of forms; the same one whenever it is asked again."""
        choices = self.library.couples[section]
        return choices.entries[self.draw.weighted(section, choices.cumulative)]

    def nouns(self) -> dict[str, str]:
        """Give what the text is called."""
        if not self._nouns:
            noun = self.form("text.nouns").source
            self._nouns = {"noun": noun, "Noun": noun[:1].upper() + noun[1:]}
        return self._nouns

    def words(self, section: str, number: int | None = None) -> str:
        """Draw words that may name the text, and that suit `number` things where a number is given."""
        counted = "" if number is None else ".one" if number == 1 else ".many"
        form = self.form(section + counted)
        return form.fill(self.nouns()) if form.fields else form.source

    def options(self, labels: str, several: bool, avoid: str = "") -> OptionStyle:
        """Draw how options are shown; labels as in `Arranged`, not counted like `avoid`, a family of counters."""
        if (labels, several, avoid) in self._options:
            return self._options[labels, several, avoid]
        suited = f" {labels}" if labels else f" not {avoid}" if avoid else ""
        item = self.form("options.items" + suited)
        style = OptionStyle(
            item,
            self.form("options.lead_ins worded" if item.source == "{option}" else "options.lead_ins").source,
            self.form("options.delimiters").source,
            self.form("options.responses several" if several else "options.responses"),
        )
        self._options[labels, several, avoid] = style
        return style


class Item(NamedTuple):
    """A pair with everything settled that depends on its contents."""

    instruction: str
    rationale: str
    stop: str
    response: str
    arranged: Arranged | None

    @property
    def kind(self) -> str:
        """The section of pairs.toml that it is shown by."""
        if self.arranged is None:
            return "pairs.chain_of_thought" if self.rationale else "pairs.free_form"
        return "pairs.multiple_choice_chain_of_thought" if self.rationale else "pairs.multiple_choice"


class Planned(NamedTuple):
    """A shot with everything settled that depends on its contents; `frame` is "plain" where it has no pairs."""

    frame: str
    context: str
    items: Sequence[Item]
    style: Style


class Plan(NamedTuple):
    """A document ready to be written."""

    shots: Sequence[Planned]
    separator: str


def plan(document: Document, library: Library, draw: Draw, frame_weights: Mapping[str, float]) -> Plan:
    """Draw a document's surface."""
    if not document.shots[0].pairs:
        return Plan([Planned("plain", document.shots[0].context, (), Style(library, draw))], "")
    # Shots of no chain have nothing but their words to be told apart by.
    chain = draw.within("chain").within(document.chain) if document.chain else draw.within(document.shots[0].context)
    several = len(document.shots) > 1
    shared = Style(library, chain) if several and chain.fraction("alike") < library.alike else None
    fewest = min(len(shot.pairs) for shot in document.shots)
    shots = []
    for shot in document.shots:
        own = chain.within(f"shot {shot.position}")
        style = shared or Style(library, own)
        frame = _draw_frame(style.draw, fewest if shared else len(shot.pairs), frame_weights)
        items = [_item(pair, at, library, own) for at, pair in enumerate(shot.pairs)]
        shots.append(Planned(frame, shot.context, items, style))
    separators = library.forms["separators.shots"]
    separator = separators.entries[chain.weighted("separators.shots", separators.cumulative)].source if several else ""
    return Plan(shots, separator)


def _draw_frame(draw: Draw, pairs: int, weights: Mapping[str, float]) -> str:
    fitting = [name for name, needed in FRAMES.items() if needed <= pairs and weights.get(name)]
    if not fitting:
        return "classic"
    return fitting[draw.weighted("frame", list(accumulate(weights[name] for name in fitting)))]


def _item(pair: Pair, at: int, library: Library, draw: Draw) -> Item:
    rationale = pair.rationale if pair.rationale.strip() else ""
    stop = ""
    if rationale and not rationale[-1].isspace():
        stop = "\n" if "\n" in rationale else " " if rationale.rstrip(_CLOSING).endswith(_SENTENCE_ENDS) else ". "
    arranged = None
    if any(map(str.strip, pair.options)):
        arranged = choice.arrange(pair.options, pair.response, rationale, library.last, draw, f"options of pair {at}")
    return Item(pair.instruction, rationale, stop, pair.response, arranged)


def write(plan: Plan) -> str:
    """Write the text of a plan."""
    return plan.separator.join(_WRITERS[shot.frame](shot) for shot in plan.shots)


def skeleton(plan: Plan) -> str:
    """Write what is left of the text without its contents: in place of each stands a word in pointed brackets."""
    return write(plan._replace(shots=[_blank(shot) for shot in plan.shots]))


def _blank(shot: Planned) -> Planned:
    items = []
    for item in shot.items:
        arranged = item.arranged
        if arranged is not None:
            arranged = arranged._replace(options=("⟨option⟩",) * len(arranged.options), response="⟨response⟩")
        items.append(Item("⟨instruction⟩", item.rationale and "⟨rationale⟩", item.stop, "⟨response⟩", arranged))
    return shot._replace(context="⟨text⟩", items=items)


def _values(item: Item, style: Style, avoid: str = "") -> dict[str, str]:
    options, response = "", item.response
    if item.arranged is not None:
        several = len(item.arranged.right) > 1
        options, response = choice.show(item.arranged, style.options(item.arranged.labels, several, avoid))
    return {
        "instruction": item.instruction,
        "options": options,
        "rationale": item.rationale,
        "stop": item.stop,
        "response": response,
    }


def _question_and_answer(item: Item, style: Style, avoid: str = "") -> tuple[str, str]:
    values = _values(item, style, avoid)
    cue = style.form("reasoning.cues").source if item.rationale else ""
    question = "\n".join(part for part in (item.instruction, values["options"], cue) if part)
    return question, style.form("reasoning.answers").fill(values) if item.rationale else values["response"]


def _pairs(items: Sequence[Item], style: Style) -> str:
    forms = [style.form(item.kind) for item in items]
    separator = style.form("separators.pairs").source
    if "\n\n" not in separator and not all(form.head for form in forms):
        separator = "\n\n"
    return separator.join(form.fill(_values(item, style)) for form, item in zip(forms, items, strict=True))


def _text(shot: Planned) -> str:
    form = shot.style.form("text.lead_ins")
    return shot.context if form.source == "{text}" else form.fill({"text": shot.context, **shot.style.nouns()})


def _under(heading: str, body: str, style: Style) -> str:
    return f"{heading}{style.form('separators.headings').source}{body}" if heading else body


def _classic(shot: Planned) -> str:
    transition = shot.style.words("transitions", len(shot.items))
    return f"{_text(shot)}\n\n{_under(transition, _pairs(shot.items, shot.style), shot.style)}"


def _pairs_first(shot: Planned) -> str:
    style = shot.style
    opening = style.words("pairs_first.openings", len(shot.items))
    text_form = style.form("pairs_first.texts.one" if len(shot.items) == 1 else "pairs_first.texts.many")
    text = text_form.fill({"text": shot.context, **style.nouns()})
    return f"{_under(opening, _pairs(shot.items, style), style)}\n\n{text}"


def _worked_examples(shot: Planned) -> str:
    style = shot.style
    *examples, last = shot.items
    label = style.form("worked_examples.labels")
    counter = label.counter
    worked = [
        "\n".join(part for part in (label.fill({counter: choice.count(counter, at)}), _pairs([example], style)) if part)
        for at, example in enumerate(examples)
    ]
    shown = _under(style.words("worked_examples.openings", len(examples)), "\n\n".join(worked), style)
    closing = _under(style.words("worked_examples.closings"), _pairs([last], style), style)
    return f"{_text(shot)}\n\n{shown}\n\n{closing}"


def _numbered(shot: Planned) -> str:
    style = shot.style
    asked, answered = style.couple("numbered.labels")
    counter = asked.counter
    both = [_question_and_answer(item, style, counter_family(counter)) for item in shot.items]
    loose = any(item.rationale or item.arranged for item in shot.items)
    between = "\n\n" if loose or style.form("separators.pairs").source != "\n" else "\n"
    blocks = []
    for heading, label, side in zip(style.couple("numbered.headings"), (asked, answered), (0, 1), strict=True):
        numbered = [
            label.fill({label.counter: choice.count(label.counter, at)}) + words[side] for at, words in enumerate(both)
        ]
        blocks.append(_under(heading.fill(style.nouns()), between.join(numbered), style))
    return "\n\n".join((_text(shot), *blocks))


def _turns(shot: Planned) -> tuple[list[str], str, str]:
    """Write the turns of a dialogue, two a pair, and give the speakers' names."""
    style = shot.style
    asker, answerer = (name.source for name in style.couple("dialogue.speakers"))
    turn = style.form("dialogue.turns")
    turns = []
    for item in shot.items:
        question, answer = _question_and_answer(item, style)
        turns += [turn.fill({"speaker": asker, "words": question}), turn.fill({"speaker": answerer, "words": answer})]
    return turns, asker, answerer


def _dialogue(shot: Planned) -> str:
    style = shot.style
    turns, asker, answerer = _turns(shot)
    separator = style.form("dialogue.separators").source
    handing, taking = style.couple("dialogue.handovers")
    if not handing.source:
        return f"{_text(shot)}\n\n{_under(style.words('dialogue.openings'), separator.join(turns), style)}"
    handed = handing.fill({"text": shot.context, **style.nouns()})
    taken = taking.fill(style.nouns())
    turn = style.form("dialogue.turns")
    first = [turn.fill({"speaker": asker, "words": handed}), turn.fill({"speaker": answerer, "words": taken})]
    return "\n\n".join((*first, separator.join(turns)))


def _next_turn(shot: Planned) -> str:
    style = shot.style
    turns, asker, answerer = _turns(shot)
    answer = _question_and_answer(shot.items[-1], style)[1]
    history = style.form("dialogue.separators").source.join(turns[:-1])
    form = style.form("next_turn.forms")
    values = {"history": history, "answer": answer, "asker": asker, "answerer": answerer, **style.nouns()}
    return f"{_text(shot)}\n\n{form.fill(values)}"


def _plain(shot: Planned) -> str:
    return shot.context


_WRITERS: Mapping[str, Callable[[Planned], str]] = {
    "plain": _plain,
    "classic": _classic,
    "dialogue": _dialogue,
    "numbered": _numbered,
    "worked_examples": _worked_examples,
    "next_turn": _next_turn,
    "pairs_first": _pairs_first,
}
