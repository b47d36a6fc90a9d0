"""What a flow is: an id that others compute too, one of our own, and who began it."""
