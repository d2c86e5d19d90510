"""Models that SGLang lacks; it imports each module here and takes its `EntryClass`."""
