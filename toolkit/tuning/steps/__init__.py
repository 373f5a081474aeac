"""How the loss and the gradient of a pass are computed: by hand, packed through the stock model, or padded.

`choosing` says which; `step` has the three. What is trained, in which order and how often, is decided elsewhere.
"""
