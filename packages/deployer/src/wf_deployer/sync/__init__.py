"""`gcd`: sends the checkout to remote machines with rsync over ssh."""
