"""What a node's three processes do. They meet only in the rings of `walle.ring.region`."""
