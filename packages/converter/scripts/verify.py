"""Proves an exported file or folder against its checkpoint; see `--help`."""

from wf_converter.export import verify_main

if __name__ == "__main__":
    verify_main()
