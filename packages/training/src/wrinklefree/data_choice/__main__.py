"""`python -m wrinklefree.data_choice`."""

from wrinklefree.data_choice.main import main

main()
