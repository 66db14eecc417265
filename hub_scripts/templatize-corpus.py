# /// script
# requires-python = ">=3.11"
# dependencies = ["ipt-datasets==0.1.*"]
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# ///
"""Render the pairs of an augmented corpus as new training texts, without a model, and publish them: `ipt templatize`.

    uv run hub_scripts/templatize-corpus.py me/augmented me/augmented --seed 2 --repo-config-name seed2
    hf jobs uv run --secrets HF_TOKEN hub_scripts/templatize-corpus.py me/augmented me/augmented-seed2 --seed 2

The paper's released corpora are read as well, with `--config-name part-0` a part of them:

    uv run hub_scripts/templatize-corpus.py instruction-pretrain/medicine-instruction-augmented-corpora me/medicine
"""

import argparse
import sys

from ipt_datasets.cli import templatize
from ipt_datasets.cli.hub_script import ScriptParser, check_repo, publish_work


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("source", metavar="INPUT", help="the Hub id or folder of what `ipt augment` wrote")
    parser.add_repo_options()
    parser.take(templatize, "source", "output")
    parser.add_publish_options()
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Render into the work folder, then publish it."""
    check_repo(args)
    templatize.run(args)
    publish_work(args)


if __name__ == "__main__":
    sys.exit(main())
