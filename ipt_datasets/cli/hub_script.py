"""What the scripts of `hub_scripts/` share: the arguments of a command, with a repository of the Hub as its output.

No command of its own. Each script is one file, so what several of them need lies here.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ipt_datasets.cli import carry_out, publish


class ScriptParser(argparse.ArgumentParser):
    """A parser that takes the arguments of `ipt` commands into itself, so that no script's can differ from theirs.

    Args:
        docstring: the script's, shown by `--help`.
    """

    def __init__(self, docstring: str | None) -> None:
        self._left_out: Collection[str] = ()
        super().__init__(description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter)

    def take(self, command: ModuleType, *left_out: str) -> None:
        """Add the arguments of a command.

        Args:
            command: a module of `ipt_datasets.cli`.
            left_out: names of arguments that the script has its own of.
        """
        self._left_out = left_out
        command.add_parser(self)
        self._left_out = ()

    def add_parser(self, name: str, **_: Any) -> "ScriptParser":
        """Be the parser that a command asks for."""
        return self

    def add_argument(self, *names: str, **options: Any) -> Any:
        """As in argparse, but for arguments that are left out."""
        return None if {*names} & {*self._left_out} else super().add_argument(*names, **options)

    def add_repo_options(self) -> None:
        """Add the repository and the folder that is written before it."""
        self.add_argument("repo", metavar="REPO", help="NAME or NAMESPACE/NAME on the Hub; made if it is not there")
        self.add_argument(
            "--work-folder",
            dest="output",
            metavar="F",
            help="what is written before it goes to the Hub, and kept; on a volume that stays, another machine can "
            "go on with it (work/SCRIPT/REPO)",
        )

    def add_publish_options(self) -> None:
        """Add the options of `ipt publish`."""
        self.take(publish, "folder", "repo", "--config-name", "--dry-run")
        self.add_argument("--repo-config-name", metavar="C", help="what the default config is called in REPO (text)")

    def carry_out(self, run: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
        """Parse, and run as `ipt` runs a command; gives the exit status."""
        args = self.parse_args(argv)
        if hasattr(args, "output"):
            config = getattr(args, "repo_config_name", None)
            args.output = args.output or f"work/{Path(self.prog).stem}/{args.repo}{f'-{config}' if config else ''}"
        args.run = run
        return carry_out(args, ["uv", "run", sys.argv[0], *(sys.argv[1:] if argv is None else argv)])


def check_repo(args: argparse.Namespace) -> None:
    """Make sure, before hours of work, that the token is known and may write to a repository that is there.

    Raises:
        OutputError: the token is missing or may not; or the repository is public and a private one was asked for.
        RecipeError: no repository can have this name.
    """
    from ipt_datasets.corpus.hub_repo import HubRepo
    from ipt_datasets.corpus.publish import check_target

    repo = HubRepo(args.repo)
    check_target(repo, repo.info(), args.private, args.pr)


def publish_work(args: argparse.Namespace) -> None:
    """Publish what was written."""
    publish.run(
        argparse.Namespace(
            **{**vars(args), "folder": args.output, "config_name": args.repo_config_name, "dry_run": False}
        )
    )
