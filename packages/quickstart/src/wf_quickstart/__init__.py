"""`wf quickstart`: steps that are child processes, a state file that resumes them, a report.

options.py says what was asked for, steps.py what is done, run.py in which order and what is skipped,
results.py gathers the figures, report.py and plots.py show them.
"""
