"""What is done with whole files of documents before a training: near-duplicates, scores, choices, mixtures.

domains names files and reads their documents; writing writes documents as they stood; near_duplicates and
deduplicating find and leave out copies; score_file holds a score a document; choosing takes the best share;
regression predicts a loss from the weights of a mixture. The commands are `wf data` (packages/training).
"""
