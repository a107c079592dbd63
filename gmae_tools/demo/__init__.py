"""A page in the browser that takes the photographs of visitors apart: `gmae-tools demo`, and a Hugging Face Space.

Photographs and results stay in the memory of a visitor's session. Nothing is written to disk, and the page loads
nothing from other servers.
"""
