"""What a training would learn, for people."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ipt_datasets.tuning.plan import MASKED, encode_sequence
from ipt_datasets.tuning.prepare import Prepared
from ipt_datasets.tuning.shots import LEFT_OUT, TaskShots


def marked(shots: TaskShots, sequence: Sequence[int], before: str, behind: str) -> str:
    """Give a sequence as the model reads it, what is learned of it between two marks."""
    ids, labels = encode_sequence(shots, sequence)
    decode = shots.prompter.tokenizer.decode
    bounds = [0, *(at for at in range(1, len(ids)) if (labels[at] == MASKED) != (labels[at - 1] == MASKED)), len(ids)]
    pieces = []
    for start, end in pairwise(bounds):
        text = decode(ids[start:end])
        pieces.append(text if labels[start] == MASKED else f"{before}{text}{behind}")
    return "".join(pieces)


def counts(prepared: Prepared) -> str:
    """Give, in lines, the rows of each set, the length of the training, and what is left out and why."""
    table, plan = prepared.shots.table, prepared.plan
    lines = [f"{'set':<32}{'rows':>9}{'tokens':>13}{'learned':>13}"]
    for number, name in enumerate(table.set_names):
        own = table.sets == number
        sums = f"{int(table.lengths[own].sum()):>13,}{int(table.learned[own].sum()):>13,}"
        lines.append(f"{name or '(unnamed)':<32}{int(own.sum()):>9,}{sums}")
    per_sequence = np.diff(plan.sequence_starts)
    shared = ", ".join(f"{int((per_sequence == n).sum()):,} of {n}" for n in range(1, int(per_sequence.max()) + 1))
    lines += [
        "",
        f"{plan.steps:,} steps, {len(per_sequence):,} sequences ({shared} shots), {int(plan.tokens[-1]):,} tokens, "
        f"{int(plan.learned[-1]):,} learned; an epoch has {int(table.lengths.sum()):,} tokens",
    ]
    for what, read in (("", prepared.shots), ("held out: ", prepared.held_out)):
        lines += [f"{count:>9,}  {what}{LEFT_OUT[reason]}" for reason, count in read.left_out.items()] if read else []
    if prepared.held_out:
        lines.append(f"{len(prepared.held_out.table):,} held-out rows")
    return "\n".join(lines)
