"""Proves an exported file or folder against its checkpoint; see `--help`."""

from wf_converter.prove import main

if __name__ == "__main__":
    main()
