"""Checkpoint folder -> GGUF file or Hugging Face folder; see `--help`."""

from wf_converter.export import main

if __name__ == "__main__":
    main()
