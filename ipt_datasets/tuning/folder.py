"""The folder of a training: checkpoints that are whole or not used, and a result that appears at once.

`checkpoints/` holds what a training resumes from, with the recipe it was begun with. The result lies beside it: it is
written into `.writing-result/`, flushed to the disk and renamed, `README.md` last. A folder with a `README.md` and the
recipe of the last training is finished.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipt_datasets.corpus.folder import CARD, LOCK, RECIPE, OutputFolder, differences
from ipt_datasets.durable import TEMPORARY, flush, replacing
from ipt_datasets.errors import OutputError
from ipt_datasets.tuning.settings import LENGTHS, TuneSettings

CHECKPOINTS, WHOLE = "checkpoints", "whole.json"
RESULT = f"{TEMPORARY}result"
RESULTS = (RECIPE, "*.safetensors", "*.safetensors.index.json", "*config.json", "training_log.jsonl", "loss.png")
KEPT = 2
"""How many of the newest checkpoints are kept, beside the one before the decay."""


class TuningFolder:
    """A folder that one training writes.

    Args:
        path: made where it is not there.
        is_main: of several processes of one training, one writes and holds the lock.

    Raises:
        OutputError: the path is a file, or another training writes there now.
    """

    def __init__(self, path: str | Path, *, is_main: bool = True) -> None:
        self._folder = OutputFolder(path) if is_main else None
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS

    def __enter__(self) -> "TuningFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._folder.close()

    def begin(self, recipe: Mapping[str, Any], steps: int, *, resume: bool, overwrite: bool) -> bool:
        """Take the folder for a training; with `resume`, only checkpoints that it can go on from stay.

        Args:
            recipe: everything that decides the weights, with the entry `settings`.
            steps: how many the training has.
            resume: go on where a training stopped; a longer one begins with the steps of a shorter one.
            overwrite: remove what an earlier training wrote.

        Returns:
            Whether there is anything to do: False where this training was finished here.

        Raises:
            OutputError: the folder holds something else, or another training, or one that cannot be gone on with.
        """
        there = {entry.name for entry in self.path.iterdir()} - {LOCK, RESULT}
        # A card alone is what any model's folder has.
        ours = (self.checkpoints / RECIPE).exists() or "settings" in _read_json(self.path / RECIPE)
        if there and not ours:
            raise OutputError(
                f"{self.path} holds files that no training wrote ({', '.join(sorted(there)[:3])}); name an empty or a "
                "new folder"
            )
        if there and not resume and not overwrite:
            state = "a finished" if self.is_finished(self._recipe_before()) else "an unfinished"
            raise OutputError(
                f"{self.path} already holds {state} training; go on with --resume, replace it with --overwrite, or "
                "name another folder"
            )
        if there and resume:
            before = self._recipe_before()
            self._check_same(before, recipe)
            if before["steps"] == steps and self.is_finished(before):
                return False
            self._remove_unusable(before, steps)
        if there and overwrite:
            self._clear()
        self.checkpoints.mkdir(exist_ok=True)
        self.write_json(self.checkpoints / RECIPE, {**recipe, "steps": steps})
        return True

    def is_finished(self, recipe: Mapping[str, Any]) -> bool:
        """Whether the result of this training lies here."""
        result = _read_json(self.path / RECIPE)
        return (self.path / CARD).exists() and not differences(result, recipe)

    def last_checkpoint(self) -> Path | None:
        """Give the newest checkpoint that is whole."""
        whole = [path for path in self._all_checkpoints() if is_whole(path)]
        return whole[-1] if whole else None

    def write_json(self, path: Path, content: Any) -> None:
        """Write a small file at once or not at all."""
        with replacing(path) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def seal(self, checkpoint: Path, before_decay: int | None) -> None:
        """Mark a checkpoint as whole, when all of it is on the disk; then remove old ones.

        Args:
            checkpoint: just written.
            before_decay: the step whose checkpoint is kept, so that the training can be prolonged.
        """
        for path in [*checkpoint.iterdir(), checkpoint]:
            flush(path)
        self.write_json(checkpoint / WHOLE, {path.name: path.stat().st_size for path in checkpoint.iterdir()})
        flush(self.checkpoints)
        for path in self._all_checkpoints()[:-KEPT]:
            if _step(path) != before_decay:
                shutil.rmtree(path)

    def new_result(self) -> Path:
        """Give an empty folder to write the result into."""
        shutil.rmtree(self.path / RESULT, ignore_errors=True)
        (self.path / RESULT).mkdir()
        return self.path / RESULT

    def publish(self) -> None:
        """Let what `new_result` holds appear under the final names, `README.md` last."""
        temporary = self.path / RESULT
        for path in [*temporary.iterdir(), temporary]:
            flush(path)
        (self.path / CARD).unlink(missing_ok=True)  # while names change, nothing here counts as finished
        for path in sorted(temporary.iterdir(), key=lambda path: (path.name == CARD, path.suffix == ".json")):
            path.rename(self.path / path.name)
        flush(self.path)
        temporary.rmdir()

    def _recipe_before(self) -> dict[str, Any]:
        path = self.checkpoints / RECIPE
        if not (recipe := _read_json(path)):
            raise OutputError(f"{path} is missing or cannot be read; start anew with --overwrite, or in another folder")
        return recipe

    def _check_same(self, before: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        free = {f"settings.{name}" for name in LENGTHS} | {"steps"}
        differing = differences(before, json.loads(json.dumps(recipe)), permit=lambda key, *_: key in free)
        if differing:
            raise OutputError(
                f"{self.path} was begun with other settings, model or rows; these differ: {'; '.join(differing)}; use "
                "the same ones, another folder, or --overwrite"
            )

    def _remove_unusable(self, before: Mapping[str, Any], steps: int) -> None:
        """Remove broken checkpoints and, where the training changes its length, those that depend on the length.

        Raises:
            OutputError: no checkpoint would be left of a training that had some.
        """
        whole = [path for path in self._all_checkpoints() if is_whole(path)]
        usable = whole
        if before["steps"] != steps:
            usable = [path for path in whole if _fits_both(_step(path), before, steps)]
            if whole and not usable:
                raise OutputError(
                    f"{self.path} holds a training of {before['steps']} steps and no checkpoint that one of {steps} "
                    "steps could go on from: only those between warm-up and decay of both can be used, with the "
                    "schedules warmup_stable_decay and constant_with_warmup; use another folder, or --overwrite"
                )
        for path in self._all_checkpoints():
            if path not in usable:
                shutil.rmtree(path)

    def _all_checkpoints(self) -> list[Path]:
        found = [path for path in self.checkpoints.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
        return sorted(found, key=_step)

    def _clear(self) -> None:
        (self.path / CARD).unlink(missing_ok=True)
        for name in (CHECKPOINTS, RESULT):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in RESULTS:
            for path in self.path.glob(pattern):
                path.unlink()


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was sealed and its files still have their sizes."""
    sizes = _read_json(checkpoint / WHOLE)
    files = {name: checkpoint / name for name in sizes}
    return bool(sizes) and all(file.is_file() and file.stat().st_size == sizes[name] for name, file in files.items())


def _fits_both(step: int, before: Mapping[str, Any], steps: int) -> bool:
    settings = TuneSettings.from_dict(before["settings"])
    for length in (before["steps"], steps):
        start = settings.decay_start(length)
        if start is None or not settings.warmup_steps(length) <= step <= start:
            return False
    return True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
