"""The protocol, without IO: messages and the time go in, messages and storage commands come out.

No sockets, files, clocks, threads or randomness of its own. The node's consensus process runs
these objects over rings; the simulator runs whole clusters of the very same objects.
"""
