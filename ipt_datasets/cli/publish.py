"""`ipt publish`."""

import argparse
import sys
from typing import Any


def add_parser(commands: Any) -> None:
    """Add the command to the parser of `ipt`."""
    publish = commands.add_parser(
        "publish",
        help="put a finished folder on the Hub, in one commit, and check it there",
        description="The token is read from HF_TOKEN or from the login (`hf auth login`).",
    )
    publish.add_argument("folder", metavar="FOLDER", help="what a command wrote")
    publish.add_argument("repo", metavar="REPO", help="NAME or NAMESPACE/NAME; made if it is not there")
    publish.add_argument("--private", action="store_true", default=None, help="make the repository a private one")
    target = publish.add_mutually_exclusive_group()
    target.add_argument("--branch", metavar="B", help="made if it is not there (main)")
    target.add_argument("--pr", action="store_true", help="open a pull request instead")
    publish.add_argument("--config-name", metavar="C", help="what the default config is called there (text)")
    publish.add_argument("--license", metavar="L", help="of the published data, for the card, e.g. cc-by-4.0")
    publish.add_argument("--message", metavar="M", help="of the commit")
    publish.add_argument("--dry-run", action="store_true", help="say what would be done, change nothing")
    publish.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Publish a folder and say what was done."""
    from ipt_datasets.corpus.publish import publish

    try:
        done = publish(
            args.folder,
            args.repo,
            private=args.private,
            branch=args.branch,
            create_pr=args.pr,
            config_name=args.config_name,
            license=args.license,
            commit_message=args.message,
            dry_run=args.dry_run,
        )
    except KeyboardInterrupt:
        print("\nipt: stopped; publish again: what was uploaded is not sent twice", file=sys.stderr)
        raise SystemExit(130) from None
    for name, rows in done.rows.items():
        print(f"{name}: {rows:,} rows")
    changes = f"{len(done.changed):,} new or changed files, {len(done.deleted):,} taken away"
    where = f"{done.repo_id}, {done.revision}{' (to be made)' if done.is_new and args.dry_run else ''}"
    if args.dry_run:
        print(f"would publish to {where}: {changes}")
        return
    if done.changed or done.deleted:
        print(f"published to {where} at {done.commit[:8]}: {changes}; rows counted there\n{done.url}")
    else:
        print(f"nothing changed: {where} at {done.commit[:8]} holds this already; rows counted there\n{done.url}")
    revision = "" if done.revision == "main" else f', revision="{done.revision}"'
    for name in done.rows:
        print(f'load_dataset("{done.repo_id}", "{name}"{revision})')
