"""A page in the browser on which visitors take their photographs apart: `gmae-tools demo`, and a Hugging Face Space.

Photographs and what is made of them stay in the memory of a visitor's session; nothing is written to disk, and the page
fetches nothing from anywhere else.
"""
