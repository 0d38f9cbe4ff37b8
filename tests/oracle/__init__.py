"""Node as the judge of our parser: a differential fuzz, and the rules that explain it."""
