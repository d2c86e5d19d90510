"""Perplexity and lm-eval tasks of a checkpoint, an exported folder or a GGUF; see --help."""

from wrinklefree_eval.evaluate import main

if __name__ == "__main__":
    main()
