"""Command lines of a checkout's Markdown against the command lines that there are.

A page is right when every command and option in it exists, choices are among those offered, overrides of
`train` compose and files of the checkout that it names are there. What a command would do is not tried.
"""
