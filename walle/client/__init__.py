"""The asyncio client. It imports neither the node's processes nor its storage."""
