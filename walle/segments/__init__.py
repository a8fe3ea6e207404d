"""The offline tools: a node's data directory looked at, checked, copied, mended, without the node.

They read through `walle.storage`, and conclude from what they find what a node would conclude.
"""
