"""Where addresses are and whose: MaxMind's and IPinfo's databases."""
