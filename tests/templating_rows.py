"""Rows as synthesis leaves them, for the tests of templating."""

from datasets import Dataset, Features, Value

from ipt_datasets.schema import SYNTHESIS_FEATURES, Pair
from ipt_datasets.templating.templatizer import Templatizer

FREE = Pair("Which port?", "Lisbon")
CHOICE = Pair("Which sea?", "the Baltic", ("the Baltic", "the Aegean", "the Irish Sea"))
THOUGHT = Pair("Why so late?", "ice", (), "It was January. Ports freeze then")
BOTH = Pair("Which month?", "June", ("May", "June"), "It says midsummer.\nThat is in June.")


def shot(chain, position=0, start=0, end=0):
    return {
        "chain": chain, "position": position, "start": start, "end": end, "follows": position > 0,
        "completion": "", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
    }  # fmt: skip


def row(text, pairs=(), shots=None, status="ok", **more):
    """A row of one shot (`shots` a chain and a position), or of several with `pairs` given as (shot, pair)."""
    if isinstance(shots, tuple):
        pairs, shots = [(0, pair) for pair in pairs], [shot(*shots, end=len(text))]
    return {"text": text, "pairs": [p.to_row(at) for at, p in pairs], "shots": shots or [], "status": status, **more}


def batch(*rows):
    return {name: [one[name] for one in rows] for name in rows[0]}


def texts(rows, **settings_):
    return Templatizer(**settings_)(batch(*rows))["text"]


def dataset(*rows):
    features = Features({"text": Value("string"), **SYNTHESIS_FEATURES})
    return Dataset.from_list([{**one, "rejected": []} for one in rows], features=features)
