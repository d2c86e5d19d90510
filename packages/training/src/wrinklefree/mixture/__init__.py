"""Weights of the data's sources that change while a model trains.

A policy (policy.py) is given the weights and what was observed since its last turn, and answers with weights
on the bounded simplex (simplex.py). callbacks/mixture.py takes the turns, scoring.py observes.
"""
