"""``python -m bayesprof``: the command line."""

import sys

from bayesprof.command_line import main

sys.exit(main())
