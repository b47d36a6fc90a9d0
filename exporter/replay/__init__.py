"""Play capture files through the kernel program."""
