"""The models that are served; SGLang imports each module here and takes its `EntryClass`."""
