"""`python -m ipt_datasets.cli`."""

import sys

from ipt_datasets.cli import main

sys.exit(main())
