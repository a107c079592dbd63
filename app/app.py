"""The browser demo as a Hugging Face Space: `gmae-tools demo`, on the port that Spaces expect."""

from gmae_tools.cli import main

main(["demo", "--host", "0.0.0.0", "--port", "7860"])
