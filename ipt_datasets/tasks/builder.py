"""A builder for the released task sets that the paper's synthesizer was tuned on."""

from collections.abc import Mapping
from typing import Any

from ipt_datasets.corpus.builders import ReleasedBuilder
from ipt_datasets.corpus.read_collection import flat_lists, is_unicode, read_qa_list, shown
from ipt_datasets.schema import TASK_FEATURES, Rejected
from ipt_datasets.tasks.converters import LEFT_OUT, LeftOut, from_collection
from ipt_datasets.tasks.derive import gather
from ipt_datasets.tasks.sets import task_row


class SynthesizerCollection(ReleasedBuilder):
    """ft-instruction-synthesizer-collection: a line a text, `SET/shard/*.jsonl`.

    Each line is an object `{"context", "QA_list", "QA_type", "rc_name"}`. The rows are those of `schema.TASK_FEATURES`,
    to tune or score a synthesizer on; `task_set` is the `rc_name`, or else the name of the config.

        repository = "instruction-pretrain/ft-instruction-synthesizer-collection"
        builder = SynthesizerCollection(repository, config_name="squad")
        rows = builder.as_streaming_dataset(split="train")

    A row has at least one pair. What cannot be used (a question without an answer, an answer that is none of the
    options, ...) is counted in the warning that names the file.
    """

    columns = TASK_FEATURES
    layout = "JSON lines, each an object with 'context' and 'QA_list'"

    def rows_of(self, line: Any) -> tuple[list[dict[str, Any]], list[str]]:
        """Give a row, or none."""
        rows: list[dict[str, Any]] = []
        problems: list[str] = []
        for value in (value for values in flat_lists(line) for value in values):
            row, left = self._read_row(value)
            rows += row
            problems += left
        return rows, problems

    def _read_row(self, value: Any) -> tuple[list[dict[str, Any]], list[str]]:
        if not isinstance(value, Mapping) or not isinstance(value.get("context", 0), str):
            return [], [f"holds {shown(value):.60}, expected an object with a string as its 'context'"]
        if not is_unicode(value["context"]):
            return [], [LEFT_OUT["not_unicode"]]
        listed: list[dict[str, str]] = []
        problems: list[str] = []
        for entry in read_qa_list(value.get("QA_list")):
            if isinstance(entry, Rejected):
                problems.append(f"{entry.reason}: {entry.text:.120}")
            else:
                listed.append({"Q": entry[0], "A": entry[1]})
        name = value.get("rc_name")
        task_set = name if isinstance(name, str) and name and is_unicode(name) else self._config_name
        rows: list[dict[str, Any]] = []
        for found in gather(from_collection({"context": value["context"], "QA_list": listed})):
            if isinstance(found, LeftOut):
                problems.append(f"{LEFT_OUT[found.reason]}: {found.what}")
            else:
                rows.append(task_row(task_set, found))
        return rows, problems

    @property
    def _config_name(self) -> str:
        return "" if self.config.name == "default" else str(self.config.name)
