"""Who started, resumed and ended a run, when and where, with which code and data: audit.jsonl of a run
folder.

log writes and reads it; events says what its lines hold; main is `wf audit`, which shows and checks it.
"""
