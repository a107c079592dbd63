"""Files, processes and other matters of the machine; nothing here knows of pictures."""
