# /// script
# requires-python = ">=3.11"
# dependencies = ["ipt-datasets==0.1.*"]
#
# [tool.hf-jobs]
# flavor = "cpu-upgrade"
# timeout = "1d"
# secrets = ["HF_TOKEN"]
# ///
"""Give what the paper's authors released the columns of ipt-datasets, and publish it.

    uv run hub_scripts/convert-released-corpora.py instruction-pretrain/medicine-instruction-augmented-corpora me/medicine --config-name part-0 --texts
    hf jobs uv run --secrets HF_TOKEN hub_scripts/convert-released-corpora.py instruction-pretrain/medicine-instruction-augmented-corpora me/medicine

The augmented corpora become a config `pairs`, as `ipt augment` writes it, for `ipt templatize` and everything else that
reads pairs; `--texts` renders the config `text` beside it. The task sets of the synthesizer (`--layout collection`)
become rows for `ipt tune` and `ipt evaluate`. Look at the licence of the source before you publish.
"""  # noqa: E501

import argparse
import sys

from ipt_datasets.cli.hub_script import ScriptParser, check_repo, publish_work
from ipt_datasets.cli.options import add_output_options, add_templating_options


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("source", metavar="INPUT", help="the Hub id of a released corpus, or a folder in its layout")
    parser.add_repo_options()
    parser.add_argument(
        "--layout",
        choices=("corpora", "collection"),
        default="corpora",
        help="corpora: instruction-augmented texts; collection: the synthesizer's task sets (%(default)s)",
    )
    parser.add_argument("--config-name", metavar="C", help="one of its folders, e.g. part-0 (all)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a Hub id")
    parser.add_argument("--texts", action="store_true", help="render training texts, too")
    parser.add_argument("--seed", type=int, default=0, help="for the templates (%(default)s)")
    add_templating_options(parser)
    add_output_options(parser)
    parser.add_publish_options()
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Convert into the work folder, then publish it."""
    from ipt_datasets.corpus.builders import InstructionAugmentedCorpora
    from ipt_datasets.corpus.convert import convert
    from ipt_datasets.tasks.builder import SynthesizerCollection
    from ipt_datasets.templating.templatizer import Templatizer

    check_repo(args)
    made = convert(
        args.source,
        args.output,
        Templatizer(seed=args.seed, templates=args.templates) if args.texts else None,
        builder_class=SynthesizerCollection if args.layout == "collection" else InstructionAugmentedCorpora,
        config_name=args.config_name,
        revision=args.revision,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    print(f"{made.rows:,} raw texts with {made.pairs:,} pairs, {made.texts:,} training texts")
    publish_work(args)


if __name__ == "__main__":
    sys.exit(main())
