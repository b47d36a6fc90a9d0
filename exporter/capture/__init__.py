"""Get flow records from the kernel: the program, the interfaces it watches, the drains."""
