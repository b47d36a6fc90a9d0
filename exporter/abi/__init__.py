"""What the kernel program writes: layouts, generated and checked against its types."""
