"""Speculation: several tokens of an answer from one forward pass.

A step reads all weights for one token of a stream; some more tokens in the same pass cost less than a step
each. So tokens that may come next are guessed (`guesser.py` the seam, `ngram.py`, `draft.py`), the pass
computes them behind the last known one, and the logits after each of them are there at once. Then, in order:
the next token is drawn as it always is; if it is the guess, the logits after it count and the next one is
drawn of them; if not, the rest is dropped. Keys and values of dropped guesses stay in the sequence's own
pages, where the next pass overwrites them, and no page becomes findable before all its tokens were drawn.

Exact: this is speculative sampling (Leviathan et al. 2023, arXiv 2211.17192) with guesses that are certain (q
is 1 for the guess): a guess is accepted with probability p, and a refusal draws of p without the guess. Since
the token is drawn first, with the number that its seed and its place in the text give, and then compared, an
answer is token for token the one without speculation, sampled ones included: every filter, penalty, bias,
mask, stop string and log-probability is that of the plain step. So what is measured here (`step_costs.py`,
`record.py`, `lengths.py`) decides about speed alone. A draft model that proposes a distribution (min(1, p /
q), residual sampling) would be accepted somewhat more often at high temperatures, but then answers would
depend on when speculation pays, and so on the time of day.
"""
