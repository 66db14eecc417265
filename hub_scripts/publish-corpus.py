# /// script
# requires-python = ">=3.11"
# dependencies = ["ipt-datasets==0.1.*"]
#
# [tool.hf-jobs]
# flavor = "cpu-basic"
# timeout = "3h"
# secrets = ["HF_TOKEN"]
# ///
"""Publish a finished folder, in one commit that is checked at the Hub: `ipt publish`.

    uv run hub_scripts/publish-corpus.py work/augment-corpus/me/augmented me/augmented --license cc-by-4.0
    hf jobs uv run --secrets HF_TOKEN -v hf://buckets/me/work:/work hub_scripts/publish-corpus.py /work/augmented me/augmented

The second line publishes what a job left on a volume. Publishing again uploads only what is missing.
"""  # noqa: E501

import sys

from ipt_datasets.cli import publish
from ipt_datasets.cli.hub_script import ScriptParser


def main() -> int:
    """Read the arguments and publish; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.take(publish)
    return parser.carry_out(publish.run)


if __name__ == "__main__":
    sys.exit(main())
