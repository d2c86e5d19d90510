"""`python -m wrinklefree.planning`."""

import sys

from wrinklefree.planning.main import main

sys.exit(main())
