"""Calls of a client's functions: how models write them, what answers are held to, and how they are read.

    forms.py     the ways in which models write calls: a table
    template.py  which of them a chat template shows, and what it leaves to us
    history.py   tools and earlier calls as the template knows them
    grammars.py  what an answer may be, as a grammar for llguidance
    schemas.py   JSON schemas as clients send them, made fit for that
    reading.py   the text of an answer, as it comes, into content and calls

The standard library is enough for all of it.
"""
