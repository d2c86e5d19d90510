"""How fast an engine reads prompts and writes tokens, as llama-bench measures it: without HTTP or sampling.

One `wf bench` run: `plan` says what is measured; each engine lives in a process of its own (`worker`), which
loads the model once and runs one test at a time when `session` asks, so that engines take turns within the
same minutes and neither their threads nor their memory meet; `report` prints the table and the JSON.
"""
