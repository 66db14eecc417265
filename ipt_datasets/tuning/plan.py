"""The order of a training, fixed before it begins: shots dealt into sequences, sequences into optimizer steps.

The order depends on the seed and on the contents alone, and a longer training begins with the steps of a shorter one.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from ipt_datasets.tuning.settings import TuneSettings
from ipt_datasets.tuning.shots import ShotTable, TaskShots

MASKED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Plan:
    """What a training reads, in order.

    Attributes:
        shots: the shots of all sequences, one behind the other.
        sequence_starts: where in `shots` each sequence begins; one more entry at the end.
        step_starts: which sequence each optimizer step begins with; one more entry at the end.
        tokens: tokens read up to each step, 0 before the first.
        learned: tokens learned up to each step.
    """

    shots: npt.NDArray[np.int32]
    sequence_starts: npt.NDArray[np.int64]
    step_starts: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    learned: npt.NDArray[np.int64]

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return len(self.step_starts) - 1

    def sequences(self, step: int) -> list[list[int]]:
        """Give the sequences of a step, each as its shots."""
        numbers = range(self.step_starts[step], self.step_starts[step + 1])
        return [self.shots[self.sequence_starts[n] : self.sequence_starts[n + 1]].tolist() for n in numbers]


def make_plan(table: ShotTable, settings: TuneSettings) -> Plan:
    """Deal shots into sequences and sequences into steps until the training is as long as the settings say."""
    shots: list[int] = []
    sequence_starts, step_starts, tokens, learned = [0], [0], [0], [0]
    read = taught = 0
    for sequence in _sequences(table, settings):
        shots += sequence
        sequence_starts.append(len(shots))
        read += int(table.lengths[sequence].sum())
        taught += int(table.learned[sequence[_read_only(table, sequence) :]].sum())
        if read - tokens[-1] >= settings.batch_tokens:
            step_starts.append(len(sequence_starts) - 1)
            tokens.append(read)
            learned.append(taught)
            if len(step_starts) - 1 == settings.max_steps or read >= (settings.max_tokens or float("inf")):
                break
    if step_starts[-1] < len(sequence_starts) - 1:  # epochs rarely end with a full step
        step_starts.append(len(sequence_starts) - 1)
        tokens.append(read)
        learned.append(taught)
    return Plan(
        np.array(shots, np.int32),
        np.array(sequence_starts, np.int64),
        np.array(step_starts, np.int64),
        np.array(tokens, np.int64),
        np.array(learned, np.int64),
    )


def _sequences(table: ShotTable, settings: TuneSettings) -> Iterator[list[int]]:
    for epoch in range(settings.epochs) if settings.epochs else count():
        yield from deal(table, settings.shots, settings.max_length, settings.seed, epoch)


def deal(table: ShotTable, most: int, max_length: int, seed: int, epoch: int) -> list[list[int]]:
    """Deal every shot once into sequences of shots of one set, in an order shuffled across sets.

    Args:
        table: the shots, none longer than `max_length`.
        most: each sequence draws how many shots it takes, from 1 to this, or from 2 where the first is only shown;
            fewer where they do not fit.
        max_length: the most tokens of a sequence.
        seed: another one deals otherwise, as another epoch does.
        epoch: counted from 0.
    """
    dealt: list[tuple[int, list[int]]] = []
    draws = [_draw(seed, epoch, "shot", int(key)) for key in table.keys]
    order = sorted(range(len(table)), key=lambda shot: (table.sets[shot], draws[shot], shot))
    set_before, wanted, room = -1, 0, 0
    for shot in order:
        length = int(table.lengths[shot])
        if table.sets[shot] != set_before or not wanted or length > room:
            key = int(table.keys[shot])
            dealt.append((_draw(seed, epoch, "place", key), []))
            least = 1 + bool(table.shown_first[table.sets[shot]])
            wanted, room = max(min(least, most), 1 + _draw(seed, epoch, "shots", key) % most), max_length
        dealt[-1][1].append(shot)
        set_before, wanted, room = table.sets[shot], wanted - 1, room - length
    return [sequence for _, sequence in sorted(dealt, key=lambda entry: entry[0])]


def read_and_learned(table: ShotTable, plan: Plan) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give how many tokens of each set the whole training reads, and how many of them it learns."""
    first = plan.sequence_starts[:-1]
    only_read = np.zeros(len(plan.shots), np.bool_)
    only_read[first] = table.shown_first[table.sets[plan.shots[first]]]
    sets, number = table.sets[plan.shots], len(table.set_names)
    learned = np.where(only_read, 0, table.learned[plan.shots])
    read = np.bincount(sets, table.lengths[plan.shots], number)
    return read.astype(np.int64), np.bincount(sets, learned, number).astype(np.int64)


def _read_only(table: ShotTable, sequence: Sequence[int]) -> int:
    """Tell how many shots at the beginning of a sequence are read and not learned."""
    return int(table.shown_first[table.sets[sequence[0]]])


def _draw(seed: int, epoch: int, decision: str, key: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{epoch}:{decision}:{key}".encode(), digest_size=8, person=b"ipt tuning").digest()
    return int.from_bytes(digest, "big")


def split_step(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Split the sequences of a step over forward passes, such that the largest one is small, padding counted.

    Args:
        lengths: tokens of each sequence.
        parts: how many forward passes; where there are fewer sequences, the last ones are empty.

    Returns:
        For each forward pass the indices of its sequences, which are of similar length.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    low, high = max(lengths, default=0), max(lengths, default=0) * len(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(_groups(order, lengths, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    groups = _groups(order, lengths, low)
    return groups + [[] for _ in range(parts - len(groups))]


def _groups(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order:
        if not groups or lengths[groups[-1][0]] * (len(groups[-1]) + 1) > capacity:
            groups.append([])
        groups[-1].append(index)
    return groups


def share_out(costs: Sequence[int], processes: int) -> list[int]:
    """Order forward passes such that processes that take them in turn have about the same work.

    Args:
        costs: of each pass; a multiple of `processes`.
        processes: process p takes the passes at p, p + processes, ...

    Returns:
        The indices of `costs` in that order.
    """
    rounds = len(costs) // processes
    taken: list[list[int]] = [[] for _ in range(processes)]
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        free = [own for own in taken if len(own) < rounds]
        min(free, key=lambda own: sum(costs[other] for other in own)).append(index)
    return [own[number] for number in range(rounds) for own in taken]


class ForwardPasses:
    """The forward passes of a plan, by index: `parts` of them make one optimizer step, which `processes` share.

    An item is a list of sequences, each its ids and its labels of the same length; the collator joins them.
    """

    def __init__(self, shots: TaskShots, plan: Plan, parts: int, processes: int = 1) -> None:
        self.shots, self.plan, self.parts, self.processes = shots, plan, parts, processes
        self._split = functools.lru_cache(maxsize=4)(self._split_step)

    def __len__(self) -> int:
        return self.plan.steps * self.parts

    def __getitem__(self, index: int) -> list[tuple[list[int], list[int]]]:
        step, part = divmod(index, self.parts)
        return [encode_sequence(self.shots, sequence) for sequence in self._split(step)[part]]

    def _split_step(self, step: int) -> list[list[list[int]]]:
        sequences = self.plan.sequences(step)
        lengths = [int(self.shots.table.lengths[sequence].sum()) for sequence in sequences]
        passes = split_step(lengths, self.parts)
        costs = [max((lengths[index] for index in part), default=0) * len(part) for part in passes]
        return [[sequences[index] for index in passes[at]] for at in share_out(costs, self.processes)]


def encode_sequence(shots: TaskShots, sequence: Sequence[int]) -> tuple[list[int], list[int]]:
    """Give the ids of shots one behind the other, and their labels: the ids of pairs and EOS, `MASKED` elsewhere."""
    ids: list[int] = []
    labels: list[int] = []
    read_only = _read_only(shots.table, sequence)
    for number, shot in enumerate(map(shots.encode, sequence)):
        ids += shot.ids
        learned_from = shot.learned_from if number >= read_only else len(shot.ids)
        labels += [MASKED] * learned_from + shot.ids[learned_from:]
    return ids, labels
