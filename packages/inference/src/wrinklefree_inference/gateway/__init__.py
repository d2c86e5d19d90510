"""Several servers of one model behind one address: `wf gateway`; `run.py` puts it together."""
