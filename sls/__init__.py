"""How deep a task must go: tune at full depth, score every block, cut, tune again at the cut, certify."""
