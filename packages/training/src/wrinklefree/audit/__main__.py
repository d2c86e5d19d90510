"""`python -m wrinklefree.audit`."""

import sys

from wrinklefree.audit.main import main

sys.exit(main())
