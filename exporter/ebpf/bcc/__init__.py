"""
The second loader: the program's C sources compiled on the node by BCC, without clang or an object.

``source`` reads what a source declares, ``headers`` finds the kernel's headers, ``compiler`` runs
BCC in a process of its own, ``program`` brings what came of it into the kernel.
"""
